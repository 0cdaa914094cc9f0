"""The arithmetic behind `count` and `aggregate_detections`, which must never disagree."""

from __future__ import annotations

import numpy as np

from pipeline_steps.artifact import NOTHING, Ids
from pipeline_steps.artifacts import Detections, Image, PlantEstimates, SegmentCounts, Segments, Totals
from pipeline_steps.geometry import area


def tally(
    image: Image,
    detections: Detections,
    segments: Segments | None,
    estimates: PlantEstimates | None,
    *,
    of: int,
) -> tuple[Totals, SegmentCounts]:
    """Add up what was found.

    `total_count` is plants seen plus plants estimated. Coverage is the area of all boxes as a share of the
    picture, in percent, at most 100 (overlapping boxes count twice). `mean_confidence` is 0 when nothing was
    found. Every known segment has a row, also with a count of 0; a row with segment 0 follows if some
    detections lie in none. `of` is how many detections there are, those not counted included.
    """
    detected, estimated = len(detections), int(estimates.count.sum()) if estimates is not None else 0
    counts = _per_segment(detections.segment, segments)
    share = area(detections.xyxy).sum() / (image.width * image.height)
    totals = Totals(
        total_count=detected + estimated,
        detected=detected,
        estimated=estimated,
        segments_with_detections=int(((counts.segment != NOTHING) & (counts.count > 0)).sum()),
        coverage_percent=min(100.0, float(share) * 100),
        mean_confidence=float(detections.score.mean(dtype=np.float64)) if detected else 0.0,
        of=of,
    )
    return totals, counts


def _per_segment(segment: Ids, segments: Segments | None) -> SegmentCounts:
    known = segments.id if segments is not None else np.unique(segment[segment != NOTHING])
    ids, counts = np.unique(segment, return_counts=True)
    count_of = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    if count_of.get(NOTHING):
        known = np.append(known, NOTHING)
    return SegmentCounts(known, np.array([count_of.get(one, 0) for one in known.tolist()], np.int64))
