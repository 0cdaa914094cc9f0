"""Regions on their way to becoming segments, and the ways in which models give them.

Everything here is in the frame of the pixels the model saw. Masks of a large picture are large, up to a byte
a pixel: prompts go to SAM in chunks, and masks that will not be kept are let go at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline_steps.artifact import Rows
from pipeline_steps.artifacts import Boxes, Image, Labels, Mask, Scores
from pipeline_steps.context import StepContext
from pipeline_steps.geometry import area
from pipeline_steps.models import ImageEmbedding, LocalBoxes, LocalMasks
from pipeline_steps.regions import connected
from pipeline_steps.vision.automatic import Regions

PROMPTS_AT_ONCE = 64
MASK_BYTES_AT_ONCE = 128 * 2**20
"""What one chunk of masks may need if each of them fills the picture."""


@dataclass(frozen=True, eq=False)
class Candidates(Rows):
    """Regions that a model sees."""

    xyxy: Boxes
    score: Scores
    label: Labels
    area: npt.NDArray[np.float32]
    """(n,), in pixels: of the mask where there is one, else of the box."""
    mask: tuple[Mask | None, ...]

    def of_classes(self, classes: Sequence[str] | None) -> Candidates:
        """Return those with one of these labels; all of them for None."""
        return self if classes is None else self.take(np.isin(self.label, list(classes)))


def of_boxes(boxes: LocalBoxes) -> Candidates:
    """Return regions known by their boxes only."""
    sizes = area(boxes.xyxy).astype(np.float32)
    return Candidates(boxes.xyxy, boxes.score, boxes.label, sizes, (None,) * len(boxes))


def of_masks(masks: LocalMasks) -> Candidates:
    """Return regions as a model gave them, without empty masks."""
    sizes = np.array([mask.area for mask in masks.mask], np.float32)
    return Candidates(masks.xyxy, masks.score, masks.label, sizes, masks.mask).take(sizes > 0)


def of_regions(regions: Regions, label: str, masks: tuple[Mask, ...] | None) -> Candidates:
    """Return regions that SAM found by itself, all called the same.

    Args:
        regions: none of them empty.
        label: what they are called.
        masks: theirs, where they are wanted.
    """
    n = len(regions)
    return Candidates(
        regions.placed,
        regions.score,
        np.full(n, label),
        regions.area.astype(np.float32),
        masks if masks is not None else (None,) * n,
    )


async def with_masks(
    found: Candidates, model: str, embedding: ImageEmbedding, image: Image, ctx: StepContext
) -> Candidates:
    """Return the same regions with SAM's mask of each box; where that is empty, as they were."""
    masks: list[Mask | None] = []
    for rows in _chunks(len(found), image):
        ctx.deadline.check()
        answer = await ctx.models.masks_of_boxes(model, embedding, found.xyxy[rows])
        masks.extend(mask if mask.area else None for mask in answer.mask)
    sizes = [size if mask is None else float(mask.area) for mask, size in zip(masks, found.area, strict=True)]
    return Candidates(found.xyxy, found.score, found.label, np.array(sizes, np.float32), tuple(masks))


async def of_class_map(classes: npt.NDArray[np.int16], names: Sequence[str], min_area: float) -> Candidates:
    """Return the connected regions of a map of classes that are large enough, scored 1."""
    return await asyncio.to_thread(_of_class_map, classes, names, min_area)


def _of_class_map(classes: npt.NDArray[np.int16], names: Sequence[str], min_area: float) -> Candidates:
    found = connected(classes)
    large = np.flatnonzero(found.area >= min_area)
    return Candidates(
        found.xyxy[large].astype(np.float32),
        np.ones(len(large), np.float32),
        np.array(names, np.str_)[found.value[large]],
        found.area[large].astype(np.float32),
        tuple(found.mask(int(region)) for region in large),
    )


def _chunks(count: int, image: Image) -> list[slice]:
    fitting = MASK_BYTES_AT_ONCE // (image.width * image.height)
    size = max(1, min(PROMPTS_AT_ONCE, fitting))
    return [slice(start, start + size) for start in range(0, count, size)]
