"""What SAM finds by itself: masks of a grid of points, each region once.

The filters of `SamAutomaticMaskGenerator`, in its order and with its ties, so that with its parameters the
masks are its masks. Only those that are kept are ever laid out: until then each is a few kilobytes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

from pipeline_steps.artifacts import Boxes, Image, Mask
from pipeline_steps.context import StepContext
from pipeline_steps.models import ImageEmbedding, MaskQuality, SketchedMasks

POINTS_AT_ONCE = 64
"""Points between two looks at the deadline."""
CROPS_AT_ONCE = 4
EDGE = 20.0
"""Pixels from a crop's edge within which a box was probably cut off by it."""

Points = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Search:
    """How to look, in stock's words."""

    quality: MaskQuality
    points_per_side: int
    box_nms_thresh: float
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1


@dataclass(frozen=True, eq=False)
class Regions(SketchedMasks):
    """Masks found in crops of a picture."""

    crop: npt.NDArray[np.int64]
    """(n, 4): the crop each was found in, in the picture's frame. Sketches and points are in the crop's."""

    @property
    def placed(self) -> Boxes:
        """(n, 4): the boxes that the masks fill, in the picture's frame, right and lower edges exclusive."""
        return (self.xyxy + self.crop[:, [0, 1, 0, 1]]).astype(np.float32)

    def masks(self) -> tuple[Mask, ...]:
        """Lay the masks out, in the picture's frame. Large ones take milliseconds each."""
        drawn = [sketch.drawn() for sketch in self.sketch]
        return tuple(
            Mask(mask.bits, mask.x + x, mask.y + y)
            for mask, (x, y) in zip(drawn, self.crop[:, :2].tolist(), strict=True)
        )


async def find(model: str, image: Image, search: Search, ctx: StepContext) -> Regions:
    """Return the regions of the picture, in its own frame, by descending score.

    Args:
        model: a `sam` model.
        image: the picture.
        search: how to look.
        ctx: the step's.
    """
    crops = list(crop_boxes(image.width, image.height, search.crop_n_layers, search.crop_overlap_ratio))
    parts: list[Regions] = []
    for start in range(0, len(crops), CROPS_AT_ONCE):
        some = crops[start : start + CROPS_AT_ONCE]
        ctx.deadline.check()
        # The picture as a whole is embedded as the object it is, so that other steps' embedding serves.
        shown = [
            image.shown if (x2 - x1, y2 - y1) == (image.width, image.height) else image.pixels[y1:y2, x1:x2]
            for _, (x1, y1, x2, y2) in some
        ]
        for (layer, crop), seen in zip(some, await ctx.models.embed(model, shown), strict=True):
            parts.append(await _in_crop(model, seen, layer, crop, image, search, ctx))
    found = parts[0] if len(parts) == 1 else _joined(parts)
    if len(crops) > 1:
        # What several crops show is kept as the smallest saw it.
        sides = found.crop[:, 2:] - found.crop[:, :2]
        smallest_first = (1 / sides.prod(1)).astype(np.float32)
        found = await _apart(found, smallest_first, search.crop_nms_thresh)
    return found


async def _in_crop(
    model: str,
    seen: ImageEmbedding,
    layer: int,
    crop: tuple[int, int, int, int],
    image: Image,
    search: Search,
    ctx: StepContext,
) -> Regions:
    left, top, right, bottom = crop
    per_side = int(search.points_per_side / search.crop_n_points_downscale_factor**layer)
    points = grid(per_side) * (right - left, bottom - top)
    parts = []
    for start in range(0, len(points), POINTS_AT_ONCE):
        ctx.deadline.check()
        some = points[start : start + POINTS_AT_ONCE]
        parts.append(await ctx.models.every_mask_of_points(model, seen, some, search.quality))
    masks = SketchedMasks.joined(parts)
    corners = np.tile(np.array(crop, np.int64), (len(masks), 1))
    found = Regions(masks.sketch, masks.score, masks.stability, masks.point, corners)
    found = found.take(~_cut_off(found.placed, crop, image))
    return await _apart(found, found.score, search.box_nms_thresh)


async def _apart(found: Regions, score: npt.NDArray[np.float32], threshold: float) -> Regions:
    """Return each region once; off the event loop, for what ten thousand sparse boxes take is a second."""
    return found.take(await asyncio.to_thread(nms, found.placed, score, threshold))


def nms(xyxy: Boxes, score: npt.NDArray[np.float32], threshold: float) -> Rows:
    """Return the rows that remain, by descending score, of boxes around masks.

    Rounded as torchvision's `nms` rounds it: the overlap must exceed `threshold`, equal scores go in the
    order they come, all numbers are float32. And as stock measures boxes: from the first pixel to the last
    one, so that a mask one pixel wide has no area and overlaps nothing.
    """
    left, top, right, bottom = (xyxy - np.array([0, 0, 1, 1], np.float32)).T
    areas = (right - left) * (bottom - top)
    order = np.argsort(-score, kind="stable")
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        wide = np.minimum(right[best], right[order]) - np.maximum(left[best], left[order])
        high = np.minimum(bottom[best], bottom[order]) - np.maximum(top[best], top[order])
        shared = np.maximum(wide, 0) * np.maximum(high, 0)
        with np.errstate(invalid="ignore"):
            overlap = shared / (areas[best] + areas[order] - shared)
        order = order[~(overlap.astype(np.float64) > threshold)]
    return np.array(kept, np.intp)


@lru_cache(maxsize=16)
def grid(per_side: int) -> Points:
    """Return the centres of a grid's cells, (n, 2), x y in 0 to 1, row by row."""
    offset = 1 / (2 * per_side)
    along = np.linspace(offset, 1 - offset, per_side)
    x, y = np.meshgrid(along, along)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points.flags.writeable = False
    return points


def crop_boxes(
    width: int, height: int, layers: int, overlap_ratio: float
) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Yield the whole picture as layer 0, then each layer's crops: 2 x 2, 4 x 4 and so on, which overlap.

    A picture with fewer pixels than a layer has crops along a side has no more of them than it has room for.
    """
    yield 0, (0, 0, width, height)
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(width, height) * (2 / count))
        wide, high = (math.ceil((overlap * (count - 1) + side) / count) for side in (width, height))
        for column, row in product(range(count), repeat=2):
            x, y = (wide - overlap) * column, (high - overlap) * row
            if x < width and y < height:
                yield layer, (x, y, min(x + wide, width), min(y + high, height))


def _cut_off(xyxy: Boxes, crop: tuple[int, int, int, int], image: Image) -> npt.NDArray[np.bool_]:
    """Return which boxes end at an edge of the crop that is not one of the picture."""
    edges = xyxy - np.array([0, 0, 1, 1], np.float32)
    at_crop = np.abs(edges - np.array(crop, np.float32)) <= EDGE
    at_image = np.abs(edges - np.array([0, 0, image.width, image.height], np.float32)) <= EDGE
    return np.asarray((at_crop & ~at_image).any(1))


def _joined(parts: list[Regions]) -> Regions:
    return Regions.joined([part for part in parts if len(part)] or parts[:1])


async def drawn(found: Regions) -> tuple[Mask, ...]:
    """Lay the masks out, off the event loop."""
    return await asyncio.to_thread(found.masks)


def without_small(found: Regions, least: float) -> Regions:
    """Return the regions of at least that many pixels; one without any is never kept."""
    return found.take(found.area >= max(1.0, least))
