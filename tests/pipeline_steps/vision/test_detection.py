"""Detection in the whole picture and inside segments."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from pipeline_steps.artifacts import Crops, Detections, Image, Mask, Segments
from pipeline_steps.errors import DeviceOverloaded, ModelMismatch
from pipeline_steps.vision.detection import DetectionParams, detect
from tests.pipeline_steps.fakes import SeeingModels, context, painted, scope, segments_of

PLANTS = (
    ("plant", (10, 10, 20, 20), 0.9),
    ("plant", (70, 30, 90, 50), 0.7),
    ("weed", (40, 40, 50, 50), 0.8),
)


def run(
    image: Image,
    segments: Segments | None = None,
    crops: Crops | None = None,
    models: SeeingModels | None = None,
    **params: object,
) -> Detections:
    return asyncio.run(
        detect(image, segments, crops, DetectionParams.model_validate(params), context(models))
    )


def test_the_whole_picture_is_looked_at_without_a_segment_type() -> None:
    found = run(painted(100, 60, *PLANTS))

    assert found.xyxy.tolist() == [[10, 10, 20, 20], [40, 40, 50, 50], [70, 30, 90, 50]]
    assert found.label.tolist() == ["plant", "weed", "plant"]
    assert found.score == pytest.approx([0.9, 0.8, 0.7])


def test_ids_are_the_same_on_every_run() -> None:
    picture = painted(100, 60, *PLANTS)

    assert run(picture).id.tolist() == run(picture).id.tolist() == context().ids(3).tolist()


def test_boxes_of_a_crop_are_full_image_pixels() -> None:
    crop = painted(100, 60, *PLANTS, x=1000, y=500)

    assert run(crop).xyxy[0].tolist() == [1010, 510, 1020, 520]


def test_the_models_threshold_holds_unless_the_step_says_otherwise() -> None:
    picture = painted(50, 50, ("plant", (0, 0, 9, 9), 0.6), ("plant", (20, 20, 30, 30), 0.3))

    assert len(run(picture)) == 1
    assert len(run(picture, confidence=0.2)) == 2
    assert len(run(picture, confidence=0.7)) == 0


def test_a_confidence_of_zero_is_not_taken_for_unset() -> None:
    assert len(run(painted(50, 50, ("plant", (0, 0, 9, 9), 0.1)), confidence=0)) == 1


def test_only_the_classes_asked_for_are_kept() -> None:
    assert run(painted(100, 60, *PLANTS), classes="weed").label.tolist() == ["weed"]


def test_only_segments_of_the_type_are_looked_at_in_one_call() -> None:
    models = SeeingModels()
    segments = segments_of(
        ("cajon", (0, 0, 30, 30)), ("segmento", (30, 30, 60, 60)), ("cajon", (60, 20, 100, 60))
    )

    found = run(painted(100, 60, *PLANTS), segments, models=models, segment_type="cajon")

    assert models.calls == [("plants", 2)]
    assert found.segment.tolist() == [101, 103]
    assert found.xyxy.tolist() == [[10, 10, 20, 20], [70, 30, 90, 50]]


def test_no_segment_of_the_type_means_no_detections() -> None:
    segments = segments_of(("segmento", (0, 0, 30, 30)))

    assert len(run(painted(100, 60, *PLANTS), segments, segment_type="cajon")) == 0
    assert len(run(painted(100, 60, *PLANTS), Segments.none(), segment_type="cajon")) == 0


def test_a_failing_segment_fails_the_step() -> None:
    models = SeeingModels()
    models.failing = DeviceOverloaded("no memory")

    with pytest.raises(DeviceOverloaded):
        run(
            painted(100, 60, *PLANTS),
            segments_of(("cajon", (0, 0, 30, 30))),
            models=models,
            segment_type="cajon",
        )


def test_a_crop_cut_before_is_used_again() -> None:
    segments = segments_of(("cajon", (0, 0, 30, 30)))
    elsewhere = painted(100, 60, ("plant", (1, 1, 5, 5), 0.9), x=300, y=200)
    crops = Crops(np.array([1]), np.array([101]), np.array(["cajon"]), (elsewhere,))

    found = run(painted(100, 60), segments, crops, segment_type="cajon")

    assert found.xyxy.tolist() == [[301, 201, 305, 205]]


def test_a_segment_seen_before_owns_what_is_found_in_the_whole_picture() -> None:
    segments = segments_of(("cajon", (0, 0, 30, 30)), ("segmento", (0, 0, 60, 60)))

    found = run(painted(100, 60, *PLANTS), segments)

    assert dict(zip(found.label.tolist(), found.segment.tolist(), strict=True)) == {"plant": 0, "weed": 102}
    assert found.segment.tolist() == [101, 102, 0]


def test_a_plant_in_a_neighbours_mask_is_left_to_the_neighbour() -> None:
    # Two trays whose boxes overlap; the plant's centre lies in the second one's mask.
    left = Mask(np.ones((60, 40), np.bool_), x=0, y=0)
    right = Mask(np.ones((60, 60), np.bool_), x=40, y=0)
    segments = segments_of(("cajon", (0, 0, 60, 60)), ("cajon", (30, 0, 100, 60)), masks=[left, right])

    found = run(painted(100, 60, ("plant", (44, 10, 54, 20), 0.9)), segments, segment_type="cajon")

    assert found.segment.tolist() == [102]


def test_a_plant_outside_every_mask_stays_with_the_crop_it_was_seen_in() -> None:
    mask = Mask(np.ones((10, 10), np.bool_), x=0, y=0)
    segments = segments_of(("cajon", (0, 0, 60, 60)), masks=[mask])

    found = run(painted(100, 60, ("plant", (44, 10, 54, 20), 0.9)), segments, segment_type="cajon")

    assert found.segment.tolist() == [101]


def test_segments_are_needed_only_with_a_segment_type() -> None:
    assert DetectionParams().needs() == frozenset()
    assert DetectionParams(segment_type="cajon").needs() == {Segments}


def test_an_unknown_model_is_a_problem_with_the_nearest_name() -> None:
    problems = list(DetectionParams(model="plant").problems(scope()))

    assert len(problems) == 1
    assert problems[0][0] == "model"
    assert "Did you mean 'plants'?" in problems[0][1]
    assert "containers" in problems[0][1]


def test_a_model_of_another_kind_is_a_problem() -> None:
    ((parameter, message),) = DetectionParams(model="sam").problems(scope())

    assert parameter == "model"
    assert "is of kind 'sam', expected detection" in message


def test_a_segment_type_that_no_segment_has_is_a_problem() -> None:
    params = DetectionParams(segment_type="cajonn")

    ((parameter, message),) = params.problems(scope(segment_labels=["cajon", "segmento"]))

    assert parameter == "segment_type"
    assert "Did you mean 'cajon'?" in message
    assert list(params.problems(scope(segment_labels=None))) == []


def test_a_class_the_model_does_not_know_is_a_problem() -> None:
    ((parameter, message),) = DetectionParams(classes="weeds").problems(scope())

    assert parameter == "classes"
    assert "Did you mean 'weed'?" in message


def test_nothing_is_said_of_models_without_a_manifest() -> None:
    assert list(DetectionParams(model="whatever").problems(scope(models=None))) == []


@pytest.mark.parametrize("confidence", [-0.1, 1.1, "high"])
def test_a_confidence_outside_0_to_1_is_refused(confidence: object) -> None:
    with pytest.raises(ValueError, match="confidence"):
        DetectionParams.model_validate({"confidence": confidence})


def test_a_model_of_the_wrong_kind_fails_at_run_time_too() -> None:
    with pytest.raises(ModelMismatch):
        run(painted(10, 10), model="sam")
