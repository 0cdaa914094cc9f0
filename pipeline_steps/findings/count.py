"""Count the plants of the picture: seen, estimated, per segment."""

from __future__ import annotations

from pydantic import Field

from pipeline_steps.artifacts import Detections, Image, PlantEstimates, SegmentCounts, Segments, Totals
from pipeline_steps.findings.tally import tally
from pipeline_steps.registry import StepParams, only_size, step


class CountParams(StepParams):
    """What counts."""

    confidence: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Detections with a lower score, 0 to 1, are not counted; they stay in the list.",
    )


@step("count", only_shows=only_size)
def count(
    image: Image,
    detections: Detections | None,
    segments: Segments | None,
    estimates: PlantEstimates | None,
    params: CountParams,
) -> tuple[Totals, SegmentCounts]:
    """Count the plants of the picture: seen, estimated, and per segment.

    Detections are optional: a pipeline that only estimates has a count too.
    """
    seen = detections if detections is not None else Detections.none()
    return tally(image, seen.take(seen.score >= params.confidence), segments, estimates, of=len(seen))
