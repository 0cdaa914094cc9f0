"""The chord's callback."""

from __future__ import annotations

import numpy as np

from pipeline_steps.artifacts import Detections, Image, SegmentCounts, Totals
from pipeline_steps.findings.aggregate_detections import aggregate
from pipeline_steps.registry import STEPS
from tests.pipeline_steps.fakes import detections_of, segments_of

PICTURE = Image(np.zeros((100, 100, 3), np.uint8))


def test_branches_are_added_up_in_total_and_per_segment() -> None:
    trays = segments_of(("cajon", (0, 0, 50, 50)), ("segmento", (50, 0, 100, 50)))
    one = detections_of([(0, 0, 10, 10)] * 3, segment=[101] * 3)
    other = detections_of([(60, 0, 70, 10)] * 2, segment=[102] * 2, first_id=50)

    totals, counts = aggregate(PICTURE, Detections.merge([one, other]), trays, None)

    assert (totals.total_count, totals.segments_with_detections) == (5, 2)
    assert dict(zip(counts.segment.tolist(), counts.count.tolist(), strict=True)) == {101: 3, 102: 2}


def test_it_needs_detections_and_writes_totals_and_counts() -> None:
    step = STEPS["aggregate_detections"]

    assert step.requires == {Image, Detections}
    assert step.writes == (Totals, SegmentCounts)
