"""Counting, in total and per segment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps.artifacts import Detections, Image, PlantEstimates, SegmentCounts, Segments, Totals
from pipeline_steps.findings.aggregate_detections import aggregate
from pipeline_steps.findings.count import CountParams, count
from tests.pipeline_steps.fakes import detections_of, segments_of

PICTURE = Image(np.zeros((100, 200, 3), np.uint8))
TRAYS = segments_of(("cajon", (0, 0, 50, 50)), ("segmento", (50, 0, 100, 50)), ("plug", (0, 50, 9, 99)))


def estimates(*counts: int) -> PlantEstimates:
    n = len(counts)
    zeros = np.zeros(n, np.int64)
    return PlantEstimates(
        zeros,
        np.full(n, "band_based"),
        zeros.astype(np.int16),
        zeros.astype(np.int32),
        zeros.astype(np.int32),
        zeros,
        zeros,
        zeros,
        zeros.astype(np.float32),
        np.array(counts, np.int64),
    )


def run(
    detections: Detections | None,
    segments: Segments | None = None,
    estimated: PlantEstimates | None = None,
    **params: float,
) -> tuple[Totals, SegmentCounts]:
    return count(PICTURE, detections, segments, estimated, CountParams.model_validate(params))


def test_the_total_is_what_was_seen_and_what_was_estimated() -> None:
    totals, _ = run(detections_of([(0, 0, 10, 10)] * 3), estimated=estimates(5, 0, 7))

    assert (totals.total_count, totals.detected, totals.estimated) == (15, 3, 12)


def test_every_segment_has_a_row_and_those_outside_come_last() -> None:
    found = detections_of([(0, 0, 1, 1)] * 5, segment=[102, 101, 0, 102, 102])

    totals, counts = run(found, TRAYS)

    assert counts.segment.tolist() == [101, 102, 103, 0]
    assert counts.count.tolist() == [1, 3, 0, 1]
    assert totals.segments_with_detections == 2


def test_without_detections_outside_there_is_no_row_for_them() -> None:
    _, counts = run(detections_of([(0, 0, 1, 1)], segment=[101]), TRAYS)

    assert counts.segment.tolist() == [101, 102, 103]


def test_without_segments_all_are_outside() -> None:
    totals, counts = run(detections_of([(0, 0, 1, 1)] * 2))

    assert (counts.segment.tolist(), counts.count.tolist()) == ([0], [2])
    assert totals.segments_with_detections == 0


def test_coverage_is_the_share_of_the_picture_and_never_over_100() -> None:
    assert run(detections_of([(0, 0, 50, 40)]))[0].coverage_percent == pytest.approx(10)
    assert run(detections_of([(0, 0, 200, 100)] * 3))[0].coverage_percent == 100


def test_mean_confidence_is_that_of_the_detections() -> None:
    assert run(detections_of([(0, 0, 1, 1)] * 2, score=[0.5, 0.9]))[0].mean_confidence == pytest.approx(0.7)


def test_nothing_found_counts_zero() -> None:
    totals, counts = run(Detections.none(), Segments.none())

    assert totals == Totals(0, 0, 0, 0, 0.0, 0.0)
    assert len(counts) == 0


def test_a_pipeline_that_only_estimates_has_a_count() -> None:
    assert run(None, TRAYS, estimates(4))[0].total_count == 4


def test_uncertain_detections_can_be_left_out() -> None:
    found = detections_of([(0, 0, 1, 1)] * 3, score=[0.4, 0.5, 0.6])

    assert run(found, confidence=0.5)[0].detected == 2
    assert run(found)[0].detected == 3


def test_aggregating_says_the_same_as_counting() -> None:
    found = detections_of([(0, 0, 9, 9)] * 5, segment=[102, 101, 0, 102, 102])

    assert aggregate(PICTURE, found, TRAYS, estimates(3)) == run(found, TRAYS, estimates(3))


@given(st.lists(st.sampled_from([0, 101, 102, 103])))
def test_the_parts_add_up_to_the_whole(segment: list[int]) -> None:
    totals, counts = run(detections_of([(0, 0, 1, 1)] * len(segment), segment=segment), TRAYS)

    assert counts.count.sum() == totals.detected == len(segment)
