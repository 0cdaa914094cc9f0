"""Find things in the whole picture, or inside the segments of one kind."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from pipeline_steps.artifacts import Crops, Detections, Image, Segments
from pipeline_steps.checks import class_problems, model_problems, segment_type_problems
from pipeline_steps.context import StepContext
from pipeline_steps.models import ModelKind
from pipeline_steps.names import Names
from pipeline_steps.registry import Kinds, Scope, StepParams, step
from pipeline_steps.vision.views import as_detections, chosen, views

LEAST_SCORE = 0.8
"""Where neither pipeline nor manifest has one."""


class DetectionParams(StepParams):
    """Which model, where it looks, and what counts as found."""

    model: str = Field(default="plants", description="The detector, as `models.yaml` names it.")
    segment_type: str | None = Field(
        default=None,
        description="Look only inside segments with this label, each on its own crop. "
        "Unset: the whole picture at once.",
    )
    confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Least score, 0 to 1. "
        f"Unset: the model's own threshold, {LEAST_SCORE} where it has none.",
    )
    classes: Names | None = Field(default=None, description="Keep only these labels. Unset: all the model's.")

    def needs(self) -> Kinds:
        """Segments, if only some are to be looked at."""
        return frozenset() if self.segment_type is None else frozenset({Segments})

    def problems(self, scope: Scope) -> Iterator[tuple[str, str]]:
        """Check model, classes and segment type against what exists."""
        yield from model_problems(scope, "model", self.model, ModelKind.DETECTION)
        yield from class_problems(scope, "classes", self.model, self.classes, ModelKind.DETECTION)
        yield from segment_type_problems(scope, "segment_type", self.segment_type)


def _only_shows(params: DetectionParams, written: Kinds) -> bool:
    del written
    return params.segment_type is None


@step("detection", only_shows=_only_shows)
async def detect(
    image: Image, segments: Segments | None, crops: Crops | None, params: DetectionParams, ctx: StepContext
) -> Detections:
    """Find things in the whole picture, or inside the segments of one kind.

    All crops go to the model in one call, so they share batches. Results are full-image pixels, sorted by
    descending score. No segment of the kind means no detections; a crop that fails fails the step.

    Raises:
        ModelUnavailable, ModelMismatch, DeviceOverloaded: from the model.
    """
    where = views(image, segments, crops, params.segment_type)
    if not where:
        return Detections.none()
    spec = ctx.models.spec(params.model)
    least = spec.least(params.confidence, LEAST_SCORE)
    found = await ctx.models.detect(params.model, [view.image.shown for view in where], least)
    seen = [(view, chosen(boxes, least, params.classes)) for view, boxes in zip(where, found, strict=True)]
    return as_detections(seen, segments, ctx)
