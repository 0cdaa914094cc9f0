"""Plants estimated from an area."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline_steps.artifacts import Detections, Image, Mask, PlantEstimates, Segments
from pipeline_steps.findings.estimate_density import EstimateDensityParams, estimate
from tests.pipeline_steps.fakes import context, detections_of, scope, segments_of

PICTURE = Image(np.zeros((200, 300, 3), np.uint8))


def run(
    segments: Segments | None = None, detections: Detections | None = None, **params: object
) -> PlantEstimates:
    chosen = EstimateDensityParams.model_validate(params)
    return estimate(PICTURE, segments, detections, chosen, context())


def test_ten_thousand_pixels_are_seven_plants() -> None:
    found = run(segments_of(("cajon", (0, 0, 100, 100))))

    assert found.count.tolist() == [7]
    assert found.method.tolist() == ["density_based"]
    assert (found.segment.tolist(), found.band.tolist()) == ([101], [0])
    assert found.plant_area_px[0] == pytest.approx(1519.76, abs=0.01)


def test_the_area_is_that_of_the_mask() -> None:
    mask = Mask(np.tri(100, 100, dtype=np.bool_), x=0, y=0)

    found = run(segments_of(("cajon", (0, 0, 100, 100)), masks=[mask]))

    assert found.count.tolist() == [4]  # 5050 x 0.000658 = 3.3
    assert found.residual_px.tolist() == [5050]


def test_what_its_own_detections_cover_is_not_estimated_again() -> None:
    segments = segments_of(("cajon", (0, 0, 100, 100)), ("cajon", (100, 0, 200, 100)))
    seen = detections_of([(0, 0, 100, 50), (0, 40, 100, 80)], segment=[101, 101])

    found = run(segments, seen)

    assert found.residual_px.tolist() == [2000, 10_000]
    assert found.count.tolist() == [2, 7]


def test_the_whole_picture_is_estimated_without_segments() -> None:
    found = run()

    assert (found.segment.tolist(), found.count.tolist()) == ([0], [40])


def test_a_covered_segment_has_no_plants_left() -> None:
    covered = run(segments_of(("cajon", (0, 0, 10, 10))), detections_of([(0, 0, 99, 99)], segment=[101]))

    assert covered.count.tolist() == [0]


def test_no_segments_are_an_empty_estimate() -> None:
    assert len(run(Segments.none())) == 0


def test_the_density_and_the_segments_can_be_chosen() -> None:
    segments = segments_of(("cajon", (0, 0, 100, 100)), ("plug", (0, 0, 100, 100)))

    found = run(segments, segment_type="plug", density=0.01)

    assert (found.segment.tolist(), found.count.tolist()) == ([102], [100])
    ((parameter, _),) = EstimateDensityParams(segment_type="x").problems(scope(segment_labels=["plug"]))
    assert parameter == "segment_type"
