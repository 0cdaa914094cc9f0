"""Which scores count: the pipeline's word before the manifest's, and that before the step's own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from pipeline_steps.vision.classification import ClassificationParams, classify
from pipeline_steps.vision.detection import DetectionParams, detect
from pipeline_steps.vision.sahi_detection import SahiDetectionParams, detect_in_tiles
from pipeline_steps.vision.segmentation import SegmentationParams, segment
from tests.pipeline_steps.fakes import (
    BAD_MASK,
    CATALOGUE,
    GOOD_MASK,
    SeeingModels,
    context,
    detections_of,
    painted,
)

PLANTS = painted(
    200,
    100,
    ("plant", (0, 0, 20, 20), 0.79),
    ("plant", (40, 0, 60, 20), 0.81),
    ("plant", (80, 0, 99, 20), 0.3),
)
TRAYS = painted(
    200,
    100,
    ("cajon", (0, 0, 20, 20), 0.49),
    ("cajon", (40, 0, 60, 20), 0.51),
    ("cajon", (80, 0, 99, 20), 0.3),
)


def models(threshold: float | None) -> SeeingModels:
    every = {name: replace(spec, threshold=threshold) for name, spec in CATALOGUE.items()}
    return SeeingModels(MappingProxyType(every))


def found(step: str, threshold: float | None, **params: Any) -> int:
    ctx = context(models(threshold))
    match step:
        case "detection":
            return len(asyncio.run(detect(PLANTS, None, None, DetectionParams(**params), ctx)))
        case "sahi_detection":
            asked = SahiDetectionParams(**params)
            return len(asyncio.run(detect_in_tiles(PLANTS, None, None, asked, ctx)))
        case _:
            return len(asyncio.run(segment(TRAYS, SegmentationParams(**params), ctx)))


@pytest.mark.parametrize("step", ["detection", "sahi_detection"])
def test_a_detector_without_a_threshold_answers_from_0_80_on(step: str) -> None:
    assert found(step, None) == 1
    assert found(step, 0.5) == 2
    assert found(step, None, confidence=0.0) == 3


@pytest.mark.parametrize("params", [{}, {"mode": "instance", "model": "trays"}], ids=["prompted", "instance"])
def test_a_model_of_segments_without_a_threshold_answers_from_0_50_on(params: dict[str, Any]) -> None:
    assert found("segmentation", None, **params) == 1
    assert found("segmentation", 0.2, **params) == 3
    assert found("segmentation", None, confidence=0.4, **params) == 2


def test_masks_of_a_sam_without_a_threshold_are_as_good_as_its_own_generator_wants_them() -> None:
    class Fair(SeeingModels):
        async def every_mask_of_points(self, *args: Any) -> Any:
            self.asked_for = args[-1].predicted_iou
            return await super().every_mask_of_points(*args)

    seen = Fair(models(None).catalogue)
    asyncio.run(segment(TRAYS, SegmentationParams(mode="automatic"), context(seen)))

    assert seen.asked_for == 0.88
    assert BAD_MASK < 0.88 < GOOD_MASK


def test_a_classifier_without_a_threshold_names_what_is_more_likely_than_not() -> None:
    boxes = detections_of([(0, 0, 20, 20)])

    def named(threshold: float | None) -> int:
        ctx = context(models(threshold))
        return len(asyncio.run(classify(PLANTS, boxes, None, None, ClassificationParams(), ctx)))

    # Of the box's colour green is the largest share, two thirds.
    assert [named(None), named(0.7), named(0.3)] == [1, 0, 1]
