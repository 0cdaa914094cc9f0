"""Segmentation in its four ways."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from pipeline_steps.artifacts import Image, Segments
from pipeline_steps.context import Deadline
from pipeline_steps.errors import DeadlineExceeded, ModelMismatch, ModelUnavailable
from pipeline_steps.models import LocalBoxes
from pipeline_steps.vision import candidates
from pipeline_steps.vision.segmentation import SegmentationParams, segment
from tests.pipeline_steps.fakes import SeeingModels, context, countdown, painted, scope

SMALL = ("cajon", (5, 5, 25, 25), 0.8)
LARGE = ("segmento", (40, 10, 95, 60), 0.7)
FAINT = ("cajon", (5, 40, 25, 60), 0.3)


def run(
    image: Image, models: SeeingModels | None = None, deadline: Deadline | None = None, **params: object
) -> Segments:
    chosen = SegmentationParams.model_validate(params)
    return asyncio.run(segment(image, chosen, context(models, deadline=deadline)))


def test_a_detector_names_and_sam_masks() -> None:
    models = SeeingModels()

    found = run(painted(100, 70, SMALL, LARGE, FAINT), models)

    assert models.calls == [("containers", 1), ("sam", 1), ("sam", 2)]
    assert found.label.tolist() == ["segmento", "cajon"]
    assert found.score == pytest.approx([0.7, 0.8])
    assert found.xyxy.tolist() == [[40, 10, 95, 60], [5, 5, 25, 25]]
    assert found.area_px.tolist() == [55 * 50, 400]
    assert [mask.bits.all() for mask in found.mask if mask is not None] == [True, True]


@pytest.mark.parametrize("mode", ["prompted", "automatic", "instance", "semantic"])
def test_segments_come_largest_first_with_ids_and_full_image_pixels(mode: str) -> None:
    model = {"instance": "trays", "semantic": "fields"}.get(mode)

    found = run(painted(100, 70, SMALL, LARGE, x=1000, y=2000), mode=mode, model=model)

    assert found.id.tolist() == context().ids(2).tolist()
    assert found.area_px.tolist() == [55 * 50, 400]
    assert found.xyxy.tolist() == [[1040, 2010, 1095, 2060], [1005, 2005, 1025, 2025]]
    assert [(mask.x, mask.y, mask.area) for mask in found.mask if mask is not None] == [
        (1040, 2010, 55 * 50),
        (1005, 2005, 400),
    ]


def test_the_area_is_that_of_the_mask_not_of_the_box() -> None:
    picture = painted(100, 70, SMALL)
    picture.pixels[10:20, 10:20] = 0

    found = run(picture)

    assert found.area_px.tolist() == [300]


def test_without_masks_no_sam_is_asked_and_the_area_is_the_boxs() -> None:
    models = SeeingModels()

    found = run(painted(100, 70, SMALL), models, masks=False)

    assert models.calls == [("containers", 1)]
    assert found.mask == (None,)
    assert found.area_px.tolist() == [400]


def test_nothing_found_needs_no_sam() -> None:
    models = SeeingModels()

    assert len(run(painted(100, 70), models)) == 0
    assert models.calls == [("containers", 1)]


def test_a_box_in_which_sam_sees_nothing_keeps_the_box() -> None:
    class Blind(SeeingModels):
        async def masks_of_boxes(self, name, embedding, boxes):  # type: ignore[no-untyped-def]
            answer = await super().masks_of_boxes(name, np.zeros_like(embedding), boxes)
            assert not any(mask.area for mask in answer.mask)
            return answer

    found = run(painted(100, 70, SMALL), Blind())

    assert found.mask == (None,)
    assert found.area_px.tolist() == [400]


def test_confidence_and_classes_narrow_what_is_kept() -> None:
    picture = painted(100, 70, SMALL, LARGE, FAINT)

    assert len(run(picture, confidence=0.2)) == 3
    assert run(picture, classes="cajon").label.tolist() == ["cajon"]


def test_boxes_that_leave_the_picture_are_cut_at_its_edges() -> None:
    class Generous(SeeingModels):
        async def detect(self, name, images, least=0.0):  # type: ignore[no-untyped-def]
            (found,) = await super().detect(name, images, least)
            return [LocalBoxes(found.xyxy + np.float32([-9, -9, 9, 9]), found.score, found.label)]

    found = run(painted(100, 70, SMALL), Generous())

    assert found.xyxy.tolist() == [[0, 0, 34, 34]]


def test_one_tray_seen_as_two_classes_is_one_segment() -> None:
    picture = painted(100, 70, ("cajon", (10, 10, 60, 60), 0.6), ("segmento", (12, 12, 58, 58), 0.8))

    found = run(picture)

    assert found.label.tolist() == ["segmento"]


def test_automatic_finds_each_region_once_and_no_ground() -> None:
    models = SeeingModels()

    found = run(painted(100, 70, SMALL, LARGE), models, mode="automatic")

    assert found.label.tolist() == ["object", "object"]
    assert found.score == pytest.approx([0.95, 0.95])
    assert models.calls == [("sam", 1), *[("sam", 64)] * 4]


def test_automatic_leaves_out_what_is_too_small() -> None:
    picture = painted(100, 70, SMALL, LARGE)

    assert len(run(picture, mode="automatic", min_area=0.1)) == 1
    assert len(run(picture, mode="automatic", pred_iou_thresh=0.99)) == 0


def test_automatic_is_named_by_a_classifier() -> None:
    picture = painted(100, 70)
    picture.pixels[10:40, 10:40] = (200, 20, 20)
    picture.pixels[10:60, 60:90] = (80, 85, 80)

    found = run(picture, mode="automatic", classifier="species")

    # The gray one is no class by more than a third, less than the classifier's threshold.
    assert found.label.tolist() == ["red"]
    assert found.score[0] > 0.8


def test_automatic_without_masks_knows_boxes_and_areas() -> None:
    found = run(painted(100, 70, SMALL, LARGE), mode="automatic", masks=False)

    assert found.mask == (None, None)
    assert found.area_px.tolist() == [55 * 50, 400]


def test_crops_find_what_the_whole_picture_does_and_nothing_twice() -> None:
    models = SeeingModels()

    found = run(painted(100, 70, SMALL, LARGE, x=1000, y=2000), models, mode="automatic", crop_n_layers=1)

    assert [items for _, items in models.calls if items != 64] == [4, 1]
    assert len(models.calls) == 2 + 5 * 4
    assert found.area_px.tolist() == [55 * 50, 400]
    assert found.xyxy.tolist() == [[1040, 2010, 1095, 2060], [1005, 2005, 1025, 2025]]


def test_prompts_go_to_sam_in_chunks_that_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "MASK_BYTES_AT_ONCE", 100 * 70 * 1)
    models = SeeingModels()

    run(painted(100, 70, SMALL, LARGE), models)

    assert models.calls == [("containers", 1), ("sam", 1), ("sam", 1), ("sam", 1)]


def test_the_deadline_is_looked_at_between_chunks() -> None:
    with pytest.raises(DeadlineExceeded):
        run(painted(100, 70, SMALL), mode="automatic", deadline=countdown(2))


def test_semantic_regions_of_one_class_that_do_not_touch_are_two() -> None:
    other = ("cajon", (70, 5, 90, 25), 0.8)

    found = run(painted(100, 70, SMALL, other), mode="semantic", model="fields")

    assert found.label.tolist() == ["cajon", "cajon"]
    assert found.xyxy.tolist() == [[5, 5, 25, 25], [70, 5, 90, 25]]
    assert found.score.tolist() == [1, 1]


def test_semantic_specks_are_left_out() -> None:
    speck = ("cajon", (70, 5, 71, 6), 0.8)

    assert len(run(painted(100, 70, SMALL, speck), mode="semantic", model="fields")) == 1


def test_a_class_map_of_nothing_gives_no_segments() -> None:
    assert len(run(painted(100, 70), mode="semantic", model="fields")) == 0


@pytest.mark.parametrize(
    ("params", "labels"),
    [
        ({}, {"segmento", "cajon", "claro-cajon"}),
        ({"classes": ["cajon"]}, {"cajon"}),
        ({"mode": "automatic"}, {"object"}),
        ({"mode": "automatic", "classifier": "species"}, {"red", "green", "blue"}),
        ({"mode": "automatic", "classifier": "archive"}, {"tall", "short"}),
        ({"mode": "semantic", "model": "fields"}, {"segmento", "cajon", "claro-cajon"}),
        ({"detector": "unknown"}, None),
    ],
)
def test_the_labels_that_segments_can_have_are_known_before(
    params: dict[str, object], labels: object
) -> None:
    assert SegmentationParams.model_validate(params).segment_labels(scope()) == labels


@pytest.mark.parametrize(
    ("params", "parameter", "said"),
    [
        ({"detector": "container"}, "detector", "Did you mean 'containers'?"),
        ({"model": "plants"}, "model", "expected sam"),
        ({"mode": "instance"}, "model", "needs the name of a model"),
        ({"mode": "instance", "model": "fields"}, "model", "expected instance"),
        ({"mode": "automatic", "classifier": "sam"}, "classifier", "expected classification"),
        ({"classes": "cajn"}, "classes", "Did you mean 'cajon'?"),
        (
            {"mode": "automatic", "crop_n_layers": 2, "crop_n_points_downscale_factor": 5},
            "crop_n_points_downscale_factor",
            "crops of layer 2 would have no points",
        ),
    ],
)
def test_problems_name_the_parameter_and_what_was_expected(
    params: dict[str, object], parameter: str, said: str
) -> None:
    ((where, message),) = SegmentationParams.model_validate(params).problems(scope())

    assert where == parameter
    assert said in message


def test_crops_may_have_a_single_point() -> None:
    params = {"mode": "automatic", "crop_n_layers": 2, "crop_n_points_downscale_factor": 4}

    assert list(SegmentationParams.model_validate(params).problems(scope())) == []


def test_boxes_only_need_no_sam_in_the_manifest() -> None:
    assert list(SegmentationParams(masks=False, model="none").problems(scope())) == []


def test_models_that_cannot_do_it_fail_the_step() -> None:
    with pytest.raises(ModelUnavailable):
        run(painted(10, 10), detector="unknown")
    with pytest.raises(ModelMismatch):
        run(painted(10, 10), mode="instance")
