"""Estimate the plants that no detection covers, from the area alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from pydantic import Field

from pipeline_steps.artifacts import Detections, Image, PlantEstimates, Segments
from pipeline_steps.checks import segment_type_problems
from pipeline_steps.context import StepContext
from pipeline_steps.findings.plots import Plot, plots
from pipeline_steps.registry import Kinds, Scope, StepParams, step

METHOD = "density_based"


class EstimateDensityParams(StepParams):
    """How an area becomes a number of plants."""

    segment_type: str | None = Field(
        default=None, description="Estimate only in segments with this label. Unset: in all of them."
    )
    density: float = Field(default=0.000658, gt=0, le=1, description="Plants per square pixel.")

    def needs(self) -> Kinds:
        """Segments, if only some are to be estimated."""
        return frozenset() if self.segment_type is None else frozenset({Segments})

    def problems(self, scope: Scope) -> Iterator[tuple[str, str]]:
        """Check that a segment can have that label."""
        yield from segment_type_problems(scope, "segment_type", self.segment_type)


@step("estimate_density")
def estimate(
    image: Image,
    segments: Segments | None,
    detections: Detections | None,
    params: EstimateDensityParams,
    ctx: StepContext,
) -> PlantEstimates:
    """Estimate the plants that no detection covers, from the area alone.

    One row for each segment (or the whole picture, where none are known): its `area_px` x `density`, rounded
    up. What its own detections cover is taken off first, since those plants are counted already.
    """
    parts: list[PlantEstimates] = []
    for plot in plots(image, segments, detections, params.segment_type):
        ctx.deadline.check()
        parts.append(_estimate(plot, params.density))
    return PlantEstimates.merge(parts) if parts else PlantEstimates.none()


def _estimate(plot: Plot, density: float) -> PlantEstimates:
    covered = int(np.count_nonzero(plot.covered())) if len(plot.boxes) else 0
    residual = max(0.0, plot.area_px - covered)
    pixels = np.array([round(residual)], np.int64)
    return PlantEstimates(
        segment=np.array([plot.segment], np.int64),
        method=np.array([METHOD]),
        band=np.zeros(1, np.int16),
        y_start=np.array([plot.image.y], np.int32),
        y_end=np.array([plot.image.y + plot.image.height], np.int32),
        residual_px=pixels,
        processed_px=pixels,
        floor_px=np.zeros(1, np.int64),
        plant_area_px=np.array([1 / density], np.float32),
        count=np.array([math.ceil(residual * density)], np.int64),
    )
