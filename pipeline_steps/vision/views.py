"""Where a detector looks, and to which segment what it finds belongs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline_steps.artifact import NOTHING
from pipeline_steps.artifacts import Crops, Detections, Image, Segments
from pipeline_steps.context import StepContext
from pipeline_steps.geometry import best_first, centres, clip
from pipeline_steps.models import LocalBoxes
from pipeline_steps.regions import Bits, inside, owners


@dataclass(frozen=True, eq=False)
class View:
    """A part of the picture to look at: the whole, or a segment's crop."""

    image: Image
    segment: int = NOTHING


def views(
    image: Image, segments: Segments | None, crops: Crops | None, segment_type: str | None
) -> list[View]:
    """Return the whole picture, or with a `segment_type` the crop of each segment so labelled."""
    if segment_type is None:
        return [View(image)]
    if segments is None:
        return []
    crop_of = zip(segments.id.tolist(), segments.label, crops_of(image, segments, crops), strict=True)
    return [View(crop, segment) for segment, label, crop in crop_of if label == segment_type]


def crops_of(image: Image, segments: Segments, crops: Crops | None) -> list[Image]:
    """Return each segment's part of the picture; one that an earlier step cut is used again."""
    cut = dict(zip(crops.segment.tolist(), crops.image, strict=True)) if crops is not None else {}
    return [
        cut[segment] if segment in cut else image.crop(box)
        for segment, box in zip(segments.id.tolist(), segments.xyxy, strict=True)
    ]


def chosen(boxes: LocalBoxes, score: float, classes: Sequence[str] | None) -> LocalBoxes:
    """Return the boxes scored at least `score`, of one of `classes` if given."""
    kept = boxes.above(score)
    return kept if classes is None else kept.take(np.isin(kept.label, list(classes)))


def clipped(boxes: LocalBoxes, image: Image) -> LocalBoxes:
    """Return the boxes cut at the edges of the image they were found in; those with no area left go."""
    cut = LocalBoxes(clip(boxes.xyxy, image.width, image.height), boxes.score, boxes.label)
    return cut.take((cut.xyxy[:, 2] > cut.xyxy[:, 0]) & (cut.xyxy[:, 3] > cut.xyxy[:, 1]))


def as_detections(
    seen: Sequence[tuple[View, LocalBoxes]], segments: Segments | None, ctx: StepContext
) -> Detections:
    """Return what was found in the views as detections of the full image, by descending score.

    Boxes are cut at the edges of their view; what has no area left is dropped. Boxes of a segment's crop
    belong to that segment, except where masks say that the centre lies outside it and inside a neighbour:
    crops are rectangles and overlap, and without this a plant between two trays would be counted in both.
    Boxes of the whole picture belong to the smallest segment that holds their centre, if any segments are
    known.
    """
    found = [_in_view(view, boxes, segments) for view, boxes in seen]
    joined = Detections.joined(found) if found else Detections.none()
    ordered = joined.take(best_first(joined.xyxy, joined.score))
    return replace(ordered, id=ctx.ids(len(ordered)))


def _in_view(view: View, boxes: LocalBoxes, segments: Segments | None) -> Detections:
    cut = clipped(boxes, view.image)
    found = cut.in_image(view.image, np.zeros(len(cut), np.int64), segment=view.segment)
    if segments is None:
        return found
    if view.segment == NOTHING:
        return replace(found, segment=owners(segments, centres(found.xyxy)))
    return found.take(~_of_a_neighbour(found, view.segment, segments))


def _of_a_neighbour(found: Detections, segment: int, segments: Segments) -> Bits:
    masks = dict(zip(segments.id.tolist(), segments.mask, strict=True))
    own = masks.pop(segment, None)
    elsewhere = np.zeros(len(found), np.bool_)
    if own is None:
        return elsewhere
    points = centres(found.xyxy)
    for mask in masks.values():
        if mask is not None:
            elsewhere |= inside(mask, points)
    return elsewhere & ~inside(own, points)
