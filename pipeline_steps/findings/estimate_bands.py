"""Estimate the plants that no detection covers, from the vegetation in horizontal bands."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline_steps.artifacts import Boxes, Detections, Image, Pixels, PlantEstimates, Segments
from pipeline_steps.checks import segment_type_problems
from pipeline_steps.context import StepContext
from pipeline_steps.findings.plots import Plot, plots
from pipeline_steps.geometry import area, centres
from pipeline_steps.regions import Bits, opened
from pipeline_steps.registry import Kinds, Scope, StepParams, step

METHOD = "band_based"
DARKEST = 30
"""Pixels whose brightest channel is not above this have no colour to go by."""
ROWS_AT_ONCE = 256


class EstimateBandsParams(StepParams):
    """How an area becomes a number of plants."""

    segment_type: str | None = Field(
        default=None, description="Estimate only in segments with this label. Unset: in all of them."
    )
    bands: int = Field(
        default=4, ge=1, le=64, description="Horizontal bands of equal height in each segment."
    )
    alpha: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Share of a plant's box that is free of its neighbours, 0 to 1: plants stand that much "
        "closer than their boxes suggest. Smaller values give more plants.",
    )
    min_detections: int = Field(
        default=10, ge=1, description="Detections that a band needs to tell the area of a plant itself."
    )
    default_plant_area: float = Field(
        default=2500.0,
        gt=0,
        description="Area of a plant, in square pixels, where a band has too few detections.",
    )

    def needs(self) -> Kinds:
        """Segments, if only some are to be estimated."""
        return frozenset() if self.segment_type is None else frozenset({Segments})

    def problems(self, scope: Scope) -> Iterator[tuple[str, str]]:
        """Check that a segment can have that label."""
        yield from segment_type_problems(scope, "segment_type", self.segment_type)


@step("estimate_bands")
def estimate(
    image: Image,
    segments: Segments | None,
    detections: Detections | None,
    params: EstimateBandsParams,
    ctx: StepContext,
) -> PlantEstimates:
    """Estimate the plants that no detection covers, from the vegetation in horizontal bands.

    In each segment (or the whole picture, where none are known), with its own detections only:

    1. residual = the segment without the boxes of its detections; nothing left gives bands of zeros;
    2. bands of `height // bands` rows, the last takes the rest;
    3. processed = residual that is vegetation, floor = the rest;
    4. the area of a plant is the mean box of the band's detections (centre in the band), without those more
       than 1.5 interquartile ranges off; with fewer than `min_detections` the default;
    5. count = processed / (area of a plant x alpha), rounded up.
    """
    parts: list[PlantEstimates] = []
    for plot in plots(image, segments, detections, params.segment_type):
        ctx.deadline.check()
        parts.append(_estimate(plot, params))
    return PlantEstimates.merge(parts) if parts else PlantEstimates.none()


def vegetation(pixels: Pixels) -> Bits:
    """Return which pixels are green enough to be plants.

    Excess green minus excess red of the colours' shares (Meyer and Neto 2008, threshold zero): with
    r + g + b = 1 that is (2g - r - b) - (1.4r - g) > 0, so 15 G > 12 R + 5 B. It compares each pixel with
    itself, so bare soil has none: a threshold between the brighter and the darker half (Otsu's) would find
    plants in any picture. Grey is never green, however bright; what has more blue than green is plastic in a
    cold light. Specks are removed, and what is nearly black has no colour.
    """
    green = np.empty(pixels.shape[:2], np.bool_)
    for top in range(0, len(pixels), ROWS_AT_ONCE):
        red, lush, blue = np.moveaxis(pixels[top : top + ROWS_AT_ONCE].astype(np.int16), 2, 0)
        seen = np.maximum(np.maximum(red, lush), blue) > DARKEST
        green[top : top + ROWS_AT_ONCE] = (15 * lush > 12 * red + 5 * blue) & (lush > blue) & seen
    return opened(green)


def plant_area(boxes: Boxes, params: EstimateBandsParams) -> float:
    """Return the mean area of the boxes without outliers, or the default if there are too few."""
    if len(boxes) < params.min_detections:
        return params.default_plant_area
    areas = area(boxes)
    low, high = np.percentile(areas, [25, 75])
    reach = 1.5 * (high - low)
    mean = float(areas[(areas >= low - reach) & (areas <= high + reach)].mean())
    return mean if mean > 0 else params.default_plant_area


def _estimate(plot: Plot, params: EstimateBandsParams) -> PlantEstimates:
    height = plot.image.height
    tops = np.arange(params.bands) * (height // params.bands)
    ends = np.append(tops[1:], height)

    residual_bits = plot.bits & ~plot.covered()
    residual = _per_band(residual_bits, tops, ends)
    if residual.any():
        processed = _per_band(residual_bits & vegetation(plot.image.pixels), tops, ends)
        middle = centres(plot.boxes)[:, 1] - plot.image.y
        plants = [
            plant_area(plot.boxes[(middle >= top) & (middle < end)], params)
            for top, end in zip(tops, ends, strict=True)
        ]
    else:
        processed, plants = np.zeros_like(residual), [params.default_plant_area] * params.bands

    counts = [
        math.ceil(green / (plant * params.alpha))
        for green, plant in zip(processed.tolist(), plants, strict=True)
    ]
    return PlantEstimates(
        segment=np.full(params.bands, plot.segment, np.int64),
        method=np.full(params.bands, METHOD),
        band=np.arange(1, params.bands + 1, dtype=np.int16),
        y_start=(tops + plot.image.y).astype(np.int32),
        y_end=(ends + plot.image.y).astype(np.int32),
        residual_px=residual,
        processed_px=processed,
        floor_px=residual - processed,
        plant_area_px=np.array(plants, np.float32),
        count=np.array(counts, np.int64),
    )


def _per_band(bits: Bits, tops: npt.NDArray[np.intp], ends: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    upto = np.concatenate([[0], np.cumsum(np.count_nonzero(bits, axis=1))])
    return np.asarray(upto[ends] - upto[tops], np.int64)
