"""Say what things are: each detection, each segment, or the picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np
from pydantic import Field

from pipeline_steps.artifact import NOTHING, Ids
from pipeline_steps.artifacts import Classifications, Crops, Detections, Image, Segments
from pipeline_steps.checks import model_problems
from pipeline_steps.context import StepContext
from pipeline_steps.errors import InvalidInput
from pipeline_steps.models import CLASSIFIERS
from pipeline_steps.pictures import Picture
from pipeline_steps.registry import Kinds, Scope, StepParams, step
from pipeline_steps.vision.views import crops_of

Over: TypeAlias = Literal["detections", "segments", "image"]

LEAST_SCORE = 0.5
"""Where neither pipeline nor manifest has one."""


class ClassificationParams(StepParams):
    """Which model, and what it is shown."""

    model: str = Field(default="species", description="The classifier, as `models.yaml` names it.")
    over: Over | None = Field(
        default=None,
        description="What is classified. Unset: the detections if there are any to read, else the segments, "
        "else the whole picture.",
    )
    confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Least probability, 0 to 1, of the best class; what stays below it gets no class. "
        f"Unset: the model's own threshold, {LEAST_SCORE} where it has none.",
    )

    def needs(self) -> Kinds:
        """What is to be classified, if it is named."""
        match self.over:
            case "detections":
                return frozenset({Detections})
            case "segments":
                return frozenset({Segments})
            case _:
                return frozenset()

    def problems(self, scope: Scope) -> Iterator[tuple[str, str]]:
        """Check the model."""
        yield from model_problems(scope, "model", self.model, *CLASSIFIERS)


def _only_shows(params: ClassificationParams, written: Kinds) -> bool:
    """Tell whether there is nothing in the picture that it would show instead."""
    return params.over == "image" or (params.over is None and written.isdisjoint({Detections, Segments}))


@step("classification", only_shows=_only_shows)
async def classify(
    image: Image,
    detections: Detections | None,
    segments: Segments | None,
    crops: Crops | None,
    params: ClassificationParams,
    ctx: StepContext,
) -> Classifications:
    """Say what things are: each detection, each segment, or the picture.

    Each thing's box is shown to the model, all in one call, so that they share batches. The best class is
    written, in the order of the things.

    Raises:
        InvalidInput: what is to be classified is not there.
        ModelUnavailable, ModelMismatch, DeviceOverloaded: from the model.
    """
    detection, segment, shown = _subjects(image, detections, segments, crops, params.over)
    if not shown:
        return Classifications.none()
    spec = ctx.models.spec(params.model)
    likely = np.stack(await ctx.models.classify(params.model, shown))
    score = likely.max(axis=1)
    found = Classifications(detection, segment, np.array(spec.classes, np.str_)[likely.argmax(axis=1)], score)
    return found.take(score >= spec.least(params.confidence, LEAST_SCORE))


def _subjects(
    image: Image,
    detections: Detections | None,
    segments: Segments | None,
    crops: Crops | None,
    over: Over | None,
) -> tuple[Ids, Ids, Sequence[Picture]]:
    """Return the detection and the segment each picture shows, and the pictures."""
    if over is None:
        over = "detections" if detections is not None else "segments" if segments is not None else "image"
    match over:
        case "detections":
            if detections is None:
                raise InvalidInput("there are no detections to classify; expected a step that finds some")
            shown = [image.crop(box).pixels for box in detections.xyxy]
            return detections.id, np.full(len(shown), NOTHING, np.int64), shown
        case "segments":
            if segments is None:
                raise InvalidInput("there are no segments to classify; expected a step that finds some")
            shown = [crop.pixels for crop in crops_of(image, segments, crops)]
            return np.full(len(shown), NOTHING, np.int64), segments.id, shown
        case "image":
            nothing = np.full(1, NOTHING, np.int64)
            return nothing, nothing, [image.shown]
