"""Keep the segments that matter, and cut each out of the picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline_steps.artifacts import Crops, Image, Segments
from pipeline_steps.context import StepContext
from pipeline_steps.names import Names
from pipeline_steps.registry import StepParams, setting, step

FilterType: TypeAlias = Literal["largest_by_class", "largest_claro"]

POOLED: Mapping[str, frozenset[str]] = MappingProxyType(
    {"largest_claro": frozenset({"segmento", "claro-cajon"})}
)
"""Filters that keep one segment of several classes together."""


class SegmentFilterParams(StepParams):
    """Which segments are kept."""

    segment_filter_type: FilterType | None = setting(
        "segment_filter_type",
        None,
        description="`largest_by_class`: the largest segment of each class in `segment_filter_classes`, and "
        "all of other classes. `largest_claro`: the largest among segmento and claro-cajon together, and "
        "all of other classes. Unset: every segment.",
    )
    segment_filter_classes: Names = setting(
        "segment_filter_classes",
        (),
        description="Classes of which `largest_by_class` keeps one segment; a single name may stand alone.",
    )

    def warnings(self) -> Iterator[tuple[str, str]]:
        """Say so where half of a filter filters nothing."""
        if self.segment_filter_type == "largest_by_class" and not self.segment_filter_classes:
            yield "segment_filter_type", "nothing is filtered: `segment_filter_classes` names no class"
        if self.segment_filter_type is None and self.segment_filter_classes:
            yield "segment_filter_classes", "nothing is filtered: `segment_filter_type` is not set"


@step("segment_filter")
def filter_segments(
    image: Image, segments: Segments, params: SegmentFilterParams, ctx: StepContext
) -> tuple[Segments, Crops]:
    """Keep the segments that matter, and cut each out of the picture.

    Largest is by `area_px`, the mask's where there is one; of equal ones the first. Order and ids stay. A
    crop is the segment's box, rounded and clamped to the picture.
    """
    kept = segments.take(_kept(segments, params))
    crops = Crops(ctx.ids(len(kept)), kept.id, kept.label, tuple(image.crop(box) for box in kept.xyxy))
    return kept, crops


def _kept(segments: Segments, params: SegmentFilterParams) -> npt.NDArray[np.bool_]:
    keep = np.ones(len(segments), np.bool_)
    if params.segment_filter_type is None:
        return keep
    pool = POOLED.get(params.segment_filter_type)
    for classes in [pool] if pool is not None else [{name} for name in params.segment_filter_classes]:
        rows = np.flatnonzero(np.isin(segments.label, list(classes)))
        if len(rows):
            keep[rows] = False
            keep[rows[np.argmax(segments.area_px[rows])]] = True
    return keep
