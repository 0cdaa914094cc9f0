"""How segment-anything's small masks become as large as the picture, axis by axis and block by block.

Stock stretches a mask bilinearly to the square the model saw, cuts that to what the picture filled of it,
and stretches again to the picture's own size. All three are linear, so they are one matrix an axis; and each
pixel mixes two or three cells, so of that matrix a block of pixels needs a few columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 32
"""Pixels along each side of the blocks that masks are looked at in; a multiple of 8."""


@dataclass(frozen=True, eq=False, slots=True)
class Stretch:
    """One axis of a picture, in blocks of `BLOCK` pixels."""

    pixels: int
    """Of the whole axis."""
    cells: Tensor
    """(blocks, k): the consecutive cells that the pixels of a block mix."""
    weights: Tensor
    """(blocks, BLOCK, k): by how much, summing to 1. Past the picture's edge NaN, which is above nothing."""

    @property
    def sizes(self) -> Tensor:
        """(blocks,): how many pixels each block really has."""
        ends = torch.arange(1, len(self.cells) + 1) * BLOCK
        return (ends.clamp(max=self.pixels) - ends + BLOCK).to(self.cells.device)


def sam_stretch(cells: int, side: int, shown: int, given: int, device: torch.device) -> Stretch:
    """Return an axis of `Sam.postprocess_masks`: what it makes of a unit matrix.

    Args:
        cells: of the low-resolution mask.
        side: of the square the model sees, in pixels.
        shown: how much of the square the picture filled.
        given: the picture's own size in pixels.
        device: where it is used.
    """
    unit = torch.eye(cells)[None, None]
    square = functional.interpolate(unit, (side, cells), mode="bilinear", align_corners=False)
    matrix = functional.interpolate(
        square[:, :, :shown], (given, cells), mode="bilinear", align_corners=False
    )[0, 0]
    blocks = -(-given // BLOCK)
    used = matrix != 0
    first = used.int().argmax(1)
    last = cells - 1 - used.flip(1).int().argmax(1)
    starts = first[::BLOCK]
    ends = last[torch.arange(1, blocks + 1).mul(BLOCK).clamp(max=given) - 1]
    most = int((ends - starts).max()) + 1
    columns = starts.clamp(max=cells - most)[:, None] + torch.arange(most)
    weights = torch.full((blocks * BLOCK, most), torch.nan)
    weights[:given] = matrix.gather(1, columns.repeat_interleave(BLOCK, 0)[:given])
    return Stretch(given, columns.to(device), weights.view(blocks, BLOCK, most).to(device))
