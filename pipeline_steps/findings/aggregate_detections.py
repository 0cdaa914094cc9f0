"""Bring together what parallel detectors found, as a chord's callback does."""

from __future__ import annotations

from pipeline_steps.artifacts import Detections, Image, PlantEstimates, SegmentCounts, Segments, Totals
from pipeline_steps.findings.tally import tally
from pipeline_steps.registry import only_size, step


@step("aggregate_detections", only_shows=only_size)
def aggregate(
    image: Image, detections: Detections, segments: Segments | None, estimates: PlantEstimates | None
) -> tuple[Totals, SegmentCounts]:
    """Add up the detections of a chord's branches, in total and per segment.

    It writes the same numbers as `count` would at this place, by the same arithmetic; a later `count`
    (after an estimate, say) replaces them. The branches' detections themselves are joined by the chord, not
    here.
    """
    return tally(image, detections, segments, estimates, of=len(detections))
