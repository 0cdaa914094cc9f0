"""Shapes on the wire: always full-image pixels of the upright picture, x to the right, y downwards."""

from __future__ import annotations

from contracts.base import Contract


class Box(Contract):
    """An axis-aligned box; `x2` and `y2` are exclusive, so `x2 - x1` is the width in pixels."""

    x1: float
    y1: float
    x2: float
    y2: float


class RunLengthMask(Contract):
    """A mask in COCO's compressed run-length encoding, as large as the whole picture."""

    size: tuple[int, int]
    """Height and width of the picture."""
    counts: str
