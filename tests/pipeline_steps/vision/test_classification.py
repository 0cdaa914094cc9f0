"""Classification of detections, segments and pictures."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from pipeline_steps.artifacts import Classifications, Crops, Detections, Image, Segments
from pipeline_steps.errors import InvalidInput
from pipeline_steps.vision.classification import ClassificationParams, classify
from tests.pipeline_steps.fakes import SeeingModels, context, detections_of, scope, segments_of


def coloured() -> Image:
    """Left red, right green; the whole is as much one as the other."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20, 0] = 200
    pixels[:, 20:, 1] = 200
    return Image(pixels, 100, 200)


LEFT, RIGHT, BOTH = (100, 200, 120, 220), (120, 200, 140, 220), (100, 200, 140, 220)


def run(
    detections: Detections | None = None,
    segments: Segments | None = None,
    crops: Crops | None = None,
    models: SeeingModels | None = None,
    **params: object,
) -> Classifications:
    chosen = ClassificationParams.model_validate(params)
    return asyncio.run(classify(coloured(), detections, segments, crops, chosen, context(models)))


def test_detections_are_classified_each_on_its_crop_in_one_call() -> None:
    models = SeeingModels()

    found = run(detections_of([LEFT, RIGHT, LEFT]), models=models)

    assert models.calls == [("species", 3)]
    assert found.detection.tolist() == [1, 2, 3]
    assert found.segment.tolist() == [0, 0, 0]
    assert found.label.tolist() == ["red", "green", "red"]
    assert found.score == pytest.approx([1, 1, 1], abs=1e-3)


def test_segments_are_classified_where_there_are_no_detections() -> None:
    found = run(segments=segments_of(("cajon", RIGHT)))

    assert (found.detection.tolist(), found.segment.tolist()) == ([0], [101])
    assert found.label.tolist() == ["green"]


def test_segments_can_be_asked_for_beside_detections() -> None:
    found = run(detections_of([LEFT]), segments_of(("cajon", RIGHT)), over="segments")

    assert found.segment.tolist() == [101]


def test_a_crop_cut_before_is_used_again() -> None:
    blue = Image(np.full((4, 4, 3), (0, 0, 255), np.uint8))
    crops = Crops(np.array([1]), np.array([101]), np.array(["cajon"]), (blue,))

    assert run(segments=segments_of(("cajon", RIGHT)), crops=crops).label.tolist() == ["blue"]


def test_the_picture_is_classified_where_there_is_nothing_else() -> None:
    found = run()

    assert (found.detection.tolist(), found.segment.tolist()) == ([0], [0])
    assert len(found) == 1


def test_what_is_too_uncertain_gets_no_class() -> None:
    assert run(detections_of([LEFT, BOTH]), confidence=0.6).detection.tolist() == [1]
    assert len(run(detections_of([BOTH]))) == 1


def test_no_detections_are_no_call() -> None:
    models = SeeingModels()

    assert len(run(Detections.none(), models=models)) == 0
    assert models.calls == []


def test_what_is_named_is_needed() -> None:
    assert ClassificationParams().needs() == frozenset()
    assert ClassificationParams(over="detections").needs() == {Detections}
    assert ClassificationParams(over="segments").needs() == {Segments}
    with pytest.raises(InvalidInput):
        run(over="segments")


def test_a_torchscript_archive_is_a_classifier() -> None:
    assert list(ClassificationParams(model="archive").problems(scope())) == []


def test_a_detector_is_no_classifier() -> None:
    ((parameter, message),) = ClassificationParams(model="plants").problems(scope())

    assert parameter == "model"
    assert "expected classification" in message
