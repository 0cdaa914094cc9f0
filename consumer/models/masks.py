"""Masks at their own size: low-resolution answers become pixels only where the mask can be.

A mask of a 48-megapixel photo is 192 MB of floats, and nearly all of it is background. Bilinear
interpolation never leaves the range of the cells it mixes, so only pixels that mix in a cell above the
threshold can be set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from pipeline_steps.artifacts import Mask


@dataclass(frozen=True, eq=False, slots=True)
class Stretch:
    """How one axis of a low-resolution answer becomes pixels: `weights @ cells`."""

    weights: Tensor
    """(pixels, cells), on the device; each row adds up to 1."""
    first_pixel: npt.NDArray[np.intp]
    """(cells,), the first pixel that mixes the cell in; as many as there are pixels where none does."""
    end_pixel: npt.NDArray[np.intp]
    """(cells,), one past the last such pixel, or past that of the cell before."""
    first_cell: npt.NDArray[np.intp]
    """(pixels,), the first cell that the pixel mixes in."""
    end_cell: npt.NDArray[np.intp]

    def pixels(self, cells: npt.NDArray[np.intp]) -> tuple[int, int]:
        """Return the range of pixels that may mix in any of these (ascending) cells."""
        return int(self.first_pixel[cells[0]]), int(self.end_pixel[cells[-1]])

    def cells(self, start: int, end: int) -> slice:
        """Return the cells that these pixels mix in."""
        return slice(int(self.first_cell[start]), int(self.end_cell[end - 1]))


def sam_stretch(cells: int, side: int, shown: int, given: int, device: torch.device) -> Stretch:
    """Return how segment-anything stretches an axis: to its square, cut to what was shown, to what was given.

    Both of its interpolations are linear, so they are one matrix: stock's own, of a unit matrix.

    Args:
        cells: of the low-resolution mask.
        side: of the square the model sees, in pixels.
        shown: how much of the square the picture filled.
        given: the picture's own size in pixels.
        device: where the weights go.
    """
    unit = torch.eye(cells)[None, None]
    square = functional.interpolate(unit, (side, cells), mode="bilinear", align_corners=False)
    weights = functional.interpolate(
        square[:, :, :shown], (given, cells), mode="bilinear", align_corners=False
    )[0, 0]
    used = (weights != 0).numpy()
    first_pixel = np.where(used.any(0), used.argmax(0), given)
    end_pixel = np.where(used.any(0), given - used[::-1].argmax(0), 0)
    return Stretch(
        weights.to(device),
        first_pixel,
        np.maximum.accumulate(end_pixel),
        used.argmax(1),
        cells - used[:, ::-1].argmax(1),
    )


def stretched_mask(logits: Tensor, rows: Stretch, columns: Stretch, threshold: float) -> Mask | None:
    """Return the mask of one low-resolution answer, or None where it has no pixel.

    Args:
        logits: (cells, cells), on the device.
        rows: how its rows become pixels.
        columns: how its columns do.
        threshold: logits above it are the mask.
    """
    above = (logits > threshold).cpu().numpy()
    if not above.any():
        return None
    top, bottom = rows.pixels(np.flatnonzero(above.any(1)))
    left, right = columns.pixels(np.flatnonzero(above.any(0)))
    if top >= bottom or left >= right:
        return None  # all of it is in the padding
    down, across = rows.cells(top, bottom), columns.cells(left, right)
    pixels = (
        rows.weights[top:bottom, down] @ logits[down, across] @ columns.weights[left:right, across].T
        > threshold
    )
    return tight_mask(pixels.cpu().numpy(), left, top)


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
