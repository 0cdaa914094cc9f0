"""Masks as large as the picture, of which only the edges are ever computed.

A 48-megapixel photo's mask is 192 MB of floats, and stock makes three a prompt. But bilinear interpolation
never leaves the range of the cells it mixes: a block of pixels whose cells are all above the threshold is
inside, one whose cells are all below is outside, and neither needs a pixel. What is left are the blocks on
the mask's edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from consumer.models.sam.stretch import BLOCK, Stretch
from pipeline_steps.artifacts import Mask

_BLOCKS_AT_ONCE = 512
"""2 MB of floats: they stay in the cache."""
_MASKS_AT_ONCE = 16
_LOOSE, _MASK, _STRICT = range(3)
"""Levels that pixels are counted above: threshold - offset, threshold, threshold + offset."""

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False, slots=True)
class Sketch:
    """A mask whose pixels are not laid out: a few kilobytes, however large it is."""

    area: int
    """Pixels set."""
    xyxy: tuple[int, int, int, int]
    """The box they fill, its right and lower edges exclusive; empty where there are none."""
    inside: npt.NDArray[np.bool_]
    """(block rows, block columns) around the mask: which blocks are set from end to end."""
    corner: tuple[int, int]
    """The first block's row and column."""
    at: tuple[Ints, Ints]
    """Rows and columns, from the corner, of the blocks on the edge."""
    bits: Bytes
    """(blocks on the edge, BLOCK, BLOCK / 8), packed."""

    def drawn(self) -> Mask:
        """Return the mask, as large as its box.

        Raises:
            ValueError: it has no pixel.
        """
        if not self.area:
            raise ValueError("a mask without a pixel has no box")
        rows, columns = self.inside.shape
        canvas = np.empty((rows, BLOCK, columns, BLOCK), np.bool_)
        canvas[:] = self.inside[:, None, :, None]
        canvas.transpose(0, 2, 1, 3)[self.at] = np.unpackbits(self.bits, axis=2).view(np.bool_)
        left, top, right, bottom = self.xyxy
        down, across = self.corner[0] * BLOCK, self.corner[1] * BLOCK
        bits = canvas.reshape(rows * BLOCK, columns * BLOCK)
        return Mask(bits[top - down : bottom - down, left - across : right - across].copy(), left, top)


class Sketched(NamedTuple):
    """Masks, and how stable they are."""

    sketches: list[Sketch]
    stability: npt.NDArray[np.float32]
    """(n,): pixels above threshold + offset, as a share of those above threshold - offset; NaN for 0 of 0."""


class _Blocks(NamedTuple):
    """The blocks of some masks that a level goes through, in the order of `Tensor.nonzero`."""

    mask: Ints
    row: Ints
    column: Ints
    counts: Ints
    """(n, 3): pixels above each level."""
    edges: Ints
    """(n, 4): first column, first row, end column, end row of those above the threshold, in the block."""
    bits: Bytes

    def of(self, rows: slice | npt.NDArray[np.bool_]) -> _Blocks:
        """Return some of them."""
        return _Blocks(
            self.mask[rows],
            self.row[rows],
            self.column[rows],
            self.counts[rows],
            self.edges[rows],
            self.bits[rows],
        )


def sketch(logits: Tensor, rows: Stretch, columns: Stretch, threshold: float, offset: float = 0) -> Sketched:
    """Return what low-resolution masks are in the picture.

    Args:
        logits: (n, cells, cells), on the device.
        rows: how its rows become pixels.
        columns: how its columns do.
        threshold: logits above it are the mask.
        offset: of the thresholds that stability is judged by.
    """
    parts = [_sketch(some, rows, columns, threshold, offset) for some in torch.split(logits, _MASKS_AT_ONCE)]
    sketches = [one for part in parts for one in part.sketches]
    return Sketched(sketches, np.concatenate([np.zeros(0, np.float32), *(part.stability for part in parts)]))


def _sketch(logits: Tensor, rows: Stretch, columns: Stretch, threshold: float, offset: float) -> Sketched:
    low, high = _bounds(logits, rows, columns)
    levels = (threshold - offset, threshold, threshold + offset)
    above = torch.stack([low > level for level in levels])
    crossed = ~above & torch.stack([high > level for level in levels])
    undecided = crossed.any(0)
    where = undecided.nonzero()
    blocks = _looked_at(logits, rows, columns, levels, where, crossed[_MASK][undecided])
    sizes = (rows.sizes[:, None] * columns.sizes).cpu().numpy()
    inside = (above & ~undecided).cpu().numpy()
    counts = (inside * sizes).sum((2, 3))
    for level in (_LOOSE, _MASK, _STRICT):
        counts[level] += _total(blocks, blocks.counts[:, level], len(logits))
    with np.errstate(invalid="ignore"):
        # As stock divides: both as float32, which above 2^24 is not every number.
        stability = counts[_STRICT].astype(np.float32) / counts[_LOOSE].astype(np.float32)
    ends = np.searchsorted(blocks.mask, np.arange(len(logits) + 1))
    corner = (columns.pixels, rows.pixels)
    sketches = [
        _one(blocks.of(slice(*ends[i : i + 2])), int(counts[_MASK, i]), inside[_MASK, i], sizes, corner)
        for i in range(len(logits))
    ]
    return Sketched(sketches, stability)


def _bounds(logits: Tensor, rows: Stretch, columns: Stretch) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest logit that each block mixes, (n, block rows, block columns) each."""
    tall = logits[:, rows.cells]
    low, high = tall.amin(2), tall.amax(2)
    return low[:, :, columns.cells].amin(3), high[:, :, columns.cells].amax(3)


def _looked_at(
    logits: Tensor,
    rows: Stretch,
    columns: Stretch,
    levels: Sequence[float],
    where: Tensor,
    on_edge: Tensor,
) -> _Blocks:
    """Return how much of each block is above each level; of those on the mask's edge, also where it is."""
    mask, row, column = where.cpu().numpy().T
    counts = np.zeros((len(where), 3), np.int64)
    edges = np.zeros((len(where), 4), np.int64)
    bits = np.zeros((len(where), BLOCK, BLOCK // 8), np.uint8)
    for start in range(0, len(where), _BLOCKS_AT_ONCE):
        some = slice(start, start + _BLOCKS_AT_ONCE)
        values = _pixels(logits, rows, columns, where[some])
        above = values > levels[_MASK]
        each = [above if level == levels[_MASK] else values > level for level in levels]
        counts[some] = torch.stack([_count(bits) for bits in each], 1).cpu().numpy()
        edge = on_edge[some]
        there = above[edge].cpu().numpy()
        numbers = start + edge.nonzero()[:, 0].cpu().numpy()
        edges[numbers] = _edges(there)
        bits[numbers] = np.packbits(there, axis=2)
    return _Blocks(mask, row, column, counts, edges, bits)


def _pixels(logits: Tensor, rows: Stretch, columns: Stretch, where: Tensor) -> Tensor:
    """Return the pixels of these blocks, (n, BLOCK, BLOCK)."""
    mask, row, column = where.T
    cells = logits[mask[:, None, None], rows.cells[row][:, :, None], columns.cells[column][:, None, :]]
    return rows.weights[row] @ cells @ columns.weights[column].transpose(1, 2)


def _count(bits: Tensor) -> Tensor:
    """Return how many of each block's bits are set, (n,).

    Eight bytes of 0 or 1 are added as one word: a block has 128 words, so no byte runs over.
    """
    words = bits.view(torch.int64).flatten(1).sum(1)
    return words.view(torch.uint8).view(-1, 8).sum(1)


def _edges(bits: npt.NDArray[np.bool_]) -> Ints:
    """Return the box of what is set in each block, (n, 4): x1 y1 x2 y2; BLOCK BLOCK 0 0 where nothing is."""
    words = bits.view(np.int64)  # eight pixels of a row
    found = []
    for line in (np.bitwise_or.reduce(words, axis=1).view(np.bool_), (words != 0).any(2)):
        some = line.any(1)
        found.append(np.where(some, line.argmax(1), BLOCK))
        found.append(np.where(some, BLOCK - line[:, ::-1].argmax(1), 0))
    left, right, top, bottom = found
    return np.stack([left, top, right, bottom], 1)


def _total(blocks: _Blocks, values: Ints, masks: int) -> Ints:
    """Return the sum of each mask's values."""
    return np.bincount(blocks.mask, weights=values, minlength=masks).astype(np.int64)


def _one(
    blocks: _Blocks, area: int, inside: npt.NDArray[np.bool_], sizes: Ints, corner: tuple[int, int]
) -> Sketch:
    """Return one mask's sketch.

    Args:
        blocks: those that a level of this mask goes through.
        area: its pixels.
        inside: (block rows, block columns): which others are all above its threshold.
        sizes: likewise, the pixels of each block.
        corner: the picture's width and height.
    """
    count = blocks.counts[:, _MASK]
    is_whole = count == sizes[blocks.row, blocks.column]
    whole = inside.copy()
    whole[blocks.row[is_whole], blocks.column[is_whole]] = True
    edge = blocks.of((count > 0) & ~is_whole)
    boxes = np.concatenate([_boxes(edge), _box_around(whole, corner)])
    if not len(boxes):
        nowhere = (edge.row, edge.column)
        return Sketch(0, (0, 0, 0, 0), whole[:0, :0], (0, 0), nowhere, edge.bits)
    left, top = boxes[:, :2].min(0).tolist()
    right, bottom = boxes[:, 2:].max(0).tolist()
    first, start = top // BLOCK, left // BLOCK
    around = whole[first : -(-bottom // BLOCK), start : -(-right // BLOCK)]
    at = (edge.row - first, edge.column - start)
    return Sketch(area, (left, top, right, bottom), around.copy(), (first, start), at, edge.bits)


def _boxes(edge: _Blocks) -> Ints:
    """Return the box of what is set in each block, in the picture, (n, 4)."""
    return edge.edges + np.stack([edge.column, edge.row, edge.column, edge.row], 1) * BLOCK


def _box_around(whole: npt.NDArray[np.bool_], corner: tuple[int, int]) -> Ints:
    """Return the box of the blocks that are set from end to end, in the picture, (1, 4); (0, 4) for none."""
    rows, columns = np.flatnonzero(whole.any(1)), np.flatnonzero(whole.any(0))
    if not len(rows):
        return np.zeros((0, 4), np.int64)
    box: Ints = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]) * BLOCK
    return box.clip(max=corner * 2)  # the last blocks may be smaller
