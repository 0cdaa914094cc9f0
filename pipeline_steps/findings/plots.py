"""The areas in which plants are estimated: each segment, without what its own detections cover."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline_steps.artifact import NOTHING
from pipeline_steps.artifacts import Boxes, Detections, Image, Segments
from pipeline_steps.regions import Bits


@dataclass(frozen=True, eq=False)
class Plot:
    """An area of the picture, and the detections in it."""

    segment: int
    """The segment's id, or 0 for the whole picture."""
    image: Image
    """The plot's own rectangle of the picture."""
    bits: Bits
    """(height, width) of that rectangle: what belongs to the plot."""
    area_px: float
    boxes: Boxes
    """Its detections, in full-image pixels."""

    def covered(self) -> Bits:
        """Return the plot's pixels that lie in a detection's box.

        A pixel belongs to a box if its centre lies inside it.
        """
        covered = np.zeros_like(self.bits)
        corner = np.array([self.image.x, self.image.y] * 2, np.float32)
        for x1, y1, x2, y2 in np.maximum(np.rint(self.boxes - corner), 0).astype(np.int64).tolist():
            covered[y1:y2, x1:x2] = True
        return covered & self.bits


def plots(
    image: Image, segments: Segments | None, detections: Detections | None, segment_type: str | None
) -> Iterator[Plot]:
    """Yield each segment (of one label, if given) as a plot, or the whole picture if no segments are known.

    A detection belongs to the segment it names, and to no other.
    """
    found = detections if detections is not None else Detections.none()
    if segments is None:
        everything = np.ones((image.height, image.width), np.bool_)
        yield Plot(NOTHING, image, everything, float(everything.size), found.xyxy)
        return
    for row, segment in enumerate(segments.id.tolist()):
        if segment_type is not None and segments.label[row] != segment_type:
            continue
        boxes = found.xyxy[found.segment == segment]
        part, bits = _part(image, segments, row)
        yield Plot(segment, part, bits, float(segments.area_px[row]), boxes)


def _part(image: Image, segments: Segments, row: int) -> tuple[Image, Bits]:
    """Return a segment's rectangle of the picture, and which of its pixels belong to the segment."""
    mask = segments.mask[row]
    if mask is None:
        part = image.crop(segments.xyxy[row])
        return part, np.ones((part.height, part.width), np.bool_)
    height, width = mask.bits.shape
    part = image.crop((mask.x, mask.y, mask.x + width, mask.y + height))
    top, left = part.y - mask.y, part.x - mask.x
    return part, mask.bits[top : top + part.height, left : left + part.width]
