"""Masks cut to what is set in them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline_steps.artifacts import Mask


def tight_mask(bits: npt.NDArray[np.bool_], x: int, y: int) -> Mask | None:
    """Return the mask cut to its own box, or None where it has no pixel.

    Args:
        bits: (height, width).
        x: where its left edge is in the picture.
        y: where its top edge is.
    """
    rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    return Mask(bits[top : rows[-1] + 1, left : columns[-1] + 1].copy(), x + left, y + top)


def no_mask(x: float, y: float, height: int, width: int) -> Mask:
    """Return what stands for a mask without pixels: one pixel of background, where it was asked for."""
    column, row = min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1)
    return Mask(np.zeros((1, 1), np.bool_), column, row)
