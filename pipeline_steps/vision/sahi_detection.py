"""Find small things in large pictures: tile by tile at full resolution, then merged."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from pipeline_steps.artifacts import Crops, Detections, Image, Pixels, Segments
from pipeline_steps.context import StepContext
from pipeline_steps.errors import InvalidInput
from pipeline_steps.geometry import Metric, tiles
from pipeline_steps.models import LocalBoxes
from pipeline_steps.registry import setting, step
from pipeline_steps.vision.detection import LEAST_SCORE, DetectionParams
from pipeline_steps.vision.merging import Method, merged
from pipeline_steps.vision.views import View, as_detections, chosen, views

TILES_AT_ONCE = 64
"""Tiles of one call to the model: some full batches, and a chance to look at the clock between calls."""
MAX_TILES = 10_000


def _lower(value: Any) -> Any:
    """Accept SAHI's own spelling, `GREEDYNMM` and `IOS`."""
    return value.lower() if isinstance(value, str) else value


class SahiDetectionParams(DetectionParams):
    """Which model, where it looks, in which tiles, and how their answers are merged."""

    sahi_slice_height: int = setting(
        "sahi_slice_height", 512, ge=64, le=8192, description="Height of a tile in pixels."
    )
    sahi_slice_width: int = setting(
        "sahi_slice_width", 512, ge=64, le=8192, description="Width of a tile in pixels."
    )
    sahi_overlap_ratio: float = setting(
        "sahi_overlap_ratio",
        0.25,
        ge=0,
        le=0.9,
        description="Share of a tile's side that its neighbour sees too.",
    )
    postprocess: Annotated[Method, BeforeValidator(_lower)] = Field(
        default="greedynmm",
        description="How boxes of one thing are brought together: `greedynmm` unites them, `nmm` unites "
        "chains of them, `nms` keeps the best.",
    )
    match_metric: Annotated[Metric, BeforeValidator(_lower)] = Field(
        default="ios",
        description="Overlap as intersection over the smaller box (`ios`) or over the union (`iou`).",
    )
    match_threshold: float = Field(
        default=0.5, gt=0, le=1, description="Overlap, 0 to 1, from which two boxes are one thing."
    )
    class_agnostic: bool = Field(
        default=False, description="Whether boxes of different classes may be one thing too."
    )
    perform_standard_pred: bool = Field(
        default=False,
        description="Look at the whole picture too, shrunk to the model's input size, where it has more than "
        "one tile: finds what is larger than a tile.",
    )


@dataclass(frozen=True, eq=False)
class _Tile:
    view: int
    image: Image


@step("sahi_detection", in_windows=True)
async def detect_in_tiles(
    image: Image,
    segments: Segments | None,
    crops: Crops | None,
    params: SahiDetectionParams,
    ctx: StepContext,
) -> Detections:
    """Find small things in large pictures: tile by tile at full resolution, then merged.

    Tiles and merging are SAHI's (see `tiles` and `merging.py`). The tiles of all segments go to the model
    together; merging stays inside each segment. Everything else is as in `detection`. Of a large TIFF only
    the tiles of a few calls are decoded at a time, if no other step needs more of it; a pass over the whole
    picture (`perform_standard_pred`) does hold all of it for a moment.

    Raises:
        InvalidInput: the picture would make more than 10 000 tiles.
        DeadlineExceeded: the time was over between two calls to the model.
        ModelUnavailable, ModelMismatch, DeviceOverloaded: from the model.
        UnreadableImage: a large TIFF that was not decoded before is damaged.
    """
    where = views(image, segments, crops, params.segment_type)
    if not where:
        return Detections.none()
    spec = ctx.models.spec(params.model)
    least = spec.least(params.confidence, LEAST_SCORE)
    cut = _cut(where, params)

    found: list[list[LocalBoxes]] = [[] for _ in where]
    for start in range(0, len(cut), TILES_AT_ONCE):
        ctx.deadline.check()
        some = cut[start : start + TILES_AT_ONCE]
        answers = await ctx.models.detect(params.model, await _shown(some), least)
        for tile, boxes in zip(some, answers, strict=True):
            kept = chosen(boxes, least, params.classes)
            found[tile.view].append(_moved(kept, tile.image, where[tile.view].image))

    # Thousands of boxes take a noticeable part of a second: not on the event loop.
    seen = await asyncio.to_thread(_merge, where, found, params)
    return as_detections(seen, segments, ctx)


def _cut(where: list[View], params: SahiDetectionParams) -> list[_Tile]:
    width, height = params.sahi_slice_width, params.sahi_slice_height
    cut: list[_Tile] = []
    for number, view in enumerate(where):
        whole = view.image
        boxes = tiles(whole.width, whole.height, width, height, params.sahi_overlap_ratio)
        if len(cut) + len(boxes) > MAX_TILES:
            raise InvalidInput(
                f"more than {MAX_TILES} tiles: expected larger sahi_slice_width and sahi_slice_height "
                f"(now {width} x {height} pixels), "
                f"or a sahi_overlap_ratio below {params.sahi_overlap_ratio}"
            )
        boxes += np.array([whole.x, whole.y, whole.x, whole.y], np.int32)
        cut.extend(_Tile(number, whole.crop(box)) for box in boxes.tolist())
        if params.perform_standard_pred and len(boxes) > 1:
            cut.append(_Tile(number, whole))
    return cut


async def _shown(some: list[_Tile]) -> list[Pixels]:
    """Return the tiles' pixels: views of a decoded picture; of one that is not, they are decoded now."""

    def pixels() -> list[Pixels]:
        return [tile.image.pixels for tile in some]

    return pixels() if all(tile.image.is_read for tile in some) else await asyncio.to_thread(pixels)


def _moved(boxes: LocalBoxes, tile: Image, view: Image) -> LocalBoxes:
    """Return a tile's boxes in the frame of the view it was cut from."""
    x, y = tile.x - view.x, tile.y - view.y
    return LocalBoxes(boxes.xyxy + np.array([x, y, x, y], np.float32), boxes.score, boxes.label)


def _merge(
    where: list[View], found: list[list[LocalBoxes]], params: SahiDetectionParams
) -> list[tuple[View, LocalBoxes]]:
    return [
        (
            view,
            merged(
                _joined(parts),
                params.postprocess,
                params.match_metric,
                params.match_threshold,
                class_agnostic=params.class_agnostic,
            ),
        )
        for view, parts in zip(where, found, strict=True)
    ]


def _joined(parts: list[LocalBoxes]) -> LocalBoxes:
    return LocalBoxes(
        np.concatenate([part.xyxy for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.label for part in parts]),
    )
