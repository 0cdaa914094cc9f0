"""Arithmetic of regions: points inside, growing and shrinking, what hangs together.

Everything here is a pure function of arrays and needs neither OpenCV nor SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline_steps.artifact import NOTHING, Ids
from pipeline_steps.artifacts import Mask, Segments

Bits = npt.NDArray[np.bool_]


def inside(mask: Mask, points: npt.NDArray[np.float64]) -> Bits:
    """Return which points (n, 2; x, y in the full image) lie on a set pixel of the mask."""
    column, row = np.floor(points - (mask.x, mask.y)).astype(np.int64).T
    height, width = mask.bits.shape
    near = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    found = np.zeros(len(points), np.bool_)
    found[near] = mask.bits[row[near], column[near]]
    return found


def inside_segment(segments: Segments, row: int, points: npt.NDArray[np.float64]) -> Bits:
    """Return which points lie in one segment: in its mask where it has one, else in its box."""
    mask = segments.mask[row]
    if mask is not None:
        return inside(mask, points)
    x1, y1, x2, y2 = segments.xyxy[row]
    x, y = points.T
    return np.asarray((x >= x1) & (y >= y1) & (x < x2) & (y < y2))


def owners(segments: Segments, points: npt.NDArray[np.float64]) -> Ids:
    """Return the id of the segment each point lies in, 0 for none; the smallest where several overlap."""
    owner = np.full(len(points), NOTHING, np.int64)
    for row in np.argsort(-segments.area_px, kind="stable"):
        owner[inside_segment(segments, int(row), points)] = segments.id[row]
    return owner


def eroded(bits: Bits, radius: int) -> Bits:
    """Return the pixels whose square of side `2 * radius + 1` is all set; outside the array counts as set."""
    return ~dilated(~bits, radius)


def dilated(bits: Bits, radius: int) -> Bits:
    """Return the pixels with a set one in their square of side `2 * radius + 1`.

    A square is a row of columns, so each axis is done alone; each round doubles what the last one reached,
    so that a wide border costs hardly more than a narrow one.
    """
    result = bits.copy()
    for axis in (0, 1):
        lines = np.swapaxes(result, 0, axis)
        reach, farthest = 0, min(radius, len(lines) - 1)
        while reach < farthest:
            step = min(reach + 1, farthest - reach)
            before = lines.copy(order="K")  # as it lies in memory: turning it costs more than the rest
            lines[step:] |= before[:-step]
            lines[:-step] |= before[step:]
            reach += step
    return result


def opened(bits: Bits) -> Bits:
    """Return the mask without what is thinner than three pixels (erosion, then dilation)."""
    return dilated(eroded(bits, 1), 1)


@dataclass(frozen=True, eq=False)
class Regions:
    """The connected regions of a map of classes, in the order they first appear, row by row."""

    number: npt.NDArray[np.int32]
    """(height, width): each pixel's region, -1 where the class is negative."""
    value: npt.NDArray[np.int64]
    """(n,), the class of each region."""
    area: npt.NDArray[np.int64]
    """(n,), in pixels."""
    xyxy: npt.NDArray[np.int64]
    """(n, 4)."""

    def mask(self, region: int) -> Mask:
        """Return one region as a mask in the frame of the map."""
        x1, y1, x2, y2 = (int(edge) for edge in self.xyxy[region])
        return Mask(self.number[y1:y2, x1:x2] == region, x1, y1)


def connected(classes: npt.NDArray[np.int16]) -> Regions:
    """Return the regions of equal class that hang together by their sides (4-connected).

    Negative classes are background. Each row is split into runs of one class; runs of neighbouring rows that
    touch are joined until nothing changes. The work is done on runs, of which a picture has far fewer than
    pixels.
    """
    height, width = classes.shape
    starts = np.ones((height, width), np.bool_)
    starts[:, 1:] = classes[:, 1:] != classes[:, :-1]
    at = np.flatnonzero(starts.ravel())
    run_of = (np.cumsum(starts, dtype=np.int32) - 1).reshape(height, width)

    # Two runs one above the other first touch where either of them starts.
    touch = (classes[1:] == classes[:-1]) & (starts[1:] | starts[:-1])
    root = _joined(len(at), run_of[1:][touch], run_of[:-1][touch])

    value = classes.ravel()[at]
    shown = np.flatnonzero((root == np.arange(len(at))) & (value >= 0))
    number_of = np.full(len(at), -1, np.int32)
    number_of[shown] = np.arange(len(shown))
    number_of = number_of[root]

    own = number_of >= 0
    number, count = number_of[own], len(shown)
    length = np.diff(at, append=classes.size)[own]
    y, x1 = np.divmod(at[own], width)
    xyxy = np.zeros((count, 4), np.int64)
    xyxy[:, :2] = classes.size
    np.minimum.at(xyxy[:, 0], number, x1)
    np.minimum.at(xyxy[:, 1], number, y)
    np.maximum.at(xyxy[:, 2], number, x1 + length)
    np.maximum.at(xyxy[:, 3], number, y + 1)
    size = np.bincount(number, weights=length, minlength=count).astype(np.int64)
    return Regions(number_of[run_of], value[shown].astype(np.int64), size, xyxy)


def _joined(count: int, a: npt.NDArray[np.int32], b: npt.NDArray[np.int32]) -> npt.NDArray[np.intp]:
    """Return for each of `count` things the first of its group, where `a[i]` and `b[i]` are of one group."""
    root = np.arange(count)
    while True:
        low, high = np.minimum(root[a], root[b]), np.maximum(root[a], root[b])
        apart = low != high
        if not apart.any():
            return root
        np.minimum.at(root, high[apart], low[apart])
        while True:
            further = root[root]
            if np.array_equal(further, root):
                break
            root = further
