"""Which boxes are near enough to meet: a few candidates for each, however many boxes there are.

Comparing all pairs of 100 000 boxes would take 10 thousand million comparisons. Here boxes of about one size
share a *level*, whose boxes are sorted into strips as high as the highest of them, and by x within a strip.
Whatever meets a given box has its centre in a few strips and between two values of x, so it lies in a few
stretches of that order, which a binary search finds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Reals: TypeAlias = npt.NDArray[np.floating[Any]]
Rows: TypeAlias = npt.NDArray[np.intp]


class Stretches(NamedTuple):
    """Stretches of a level's order: `length` boxes from `start` on may meet the asked box `asked`."""

    asked: Rows
    start: Rows
    length: Rows


class Level:
    """Boxes of about one size, in strips.

    Args:
        xyxy: of all boxes, (n, 4).
        rows: which of them are of this size; at least one.
    """

    def __init__(self, xyxy: Floats, rows: Rows) -> None:
        boxes = xyxy[rows]
        x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        self._half_width = float((boxes[:, 2] - boxes[:, 0]).max()) / 2
        self._half_height = float((boxes[:, 3] - boxes[:, 1]).max()) / 2
        self._left, self._top = float(x.min()), float(y.min())
        self._width = float(x.max()) - self._left
        self._pitch = self._width + 1.0  # a strip's places end before the next strip's begin
        # With specks of a pixel, strips as low as they are would be thousands, for a large box to go through.
        lowest = (float(y.max()) - self._top) / (2 * math.sqrt(len(rows)))
        self._strip = max(2 * self._half_height, lowest, 1e-3)
        self._last_strip = int((float(y.max()) - self._top) / self._strip)
        places = self.place(boxes)
        order = np.argsort(places, kind="stable")
        self._places = places[order]
        self.rows = rows[order]
        """The boxes in this level's order."""

    def place(self, xyxy: Floats) -> Floats:
        """Return where boxes lie in this level's order."""
        middle = (xyxy[:, :2] + xyxy[:, 2:]) / 2
        strip = np.floor((middle[:, 1] - self._top) / self._strip)
        return np.asarray(strip * self._pitch + (middle[:, 0] - self._left))

    def stretches(self, xyxy: Floats) -> Stretches:
        """Return where in the level's order lies all that may meet each of these boxes."""
        first = self._strip_of(xyxy[:, 1] - self._half_height)
        strips = self._strip_of(xyxy[:, 3] + self._half_height) - first + 1
        asked = np.repeat(np.arange(len(xyxy)), strips)
        begin = consecutive(first, strips) * self._pitch
        left = np.clip(xyxy[:, 0] - self._half_width - self._left, 0, None)
        right = np.clip(xyxy[:, 2] + self._half_width - self._left, None, self._width)
        start = np.searchsorted(self._places, begin + left[asked], side="left")
        end = np.searchsorted(self._places, begin + right[asked], side="right")
        return Stretches(asked, start, np.maximum(end - start, 0))

    def _strip_of(self, y: Floats) -> Rows:
        return np.clip(np.floor((y - self._top) / self._strip), 0, self._last_strip).astype(np.intp)


class Neighbourhood:
    """Boxes that can be asked who may meet a given one.

    Args:
        xyxy: of all boxes, (n, 4).
        rows: those that are to be found; at least one.
    """

    def __init__(self, xyxy: Reals, rows: Rows) -> None:
        self._xyxy = xyxy.astype(np.float64)
        self._levels = [Level(self._xyxy, some) for some in _by_size(self._xyxy[rows], rows)]

    def meeting(self, asked: Rows, most: int) -> tuple[int, Rows, Rows]:
        """Return pairs (asked, other) among which are all that meet, for as many of `asked` as fit in `most`.

        Args:
            asked: boxes, at least one.
            most: pairs that may be returned; a box that has more is answered alone.

        Returns:
            how many of `asked` were answered; the asked box of each pair; the other, which may be itself.
        """
        while True:
            # In the order they lie in, each search of a level begins where the one before it ended.
            place = self._levels[0].place(self._xyxy[asked])
            near_by = asked[np.argsort(place, kind="stable")]
            found = [level.stretches(self._xyxy[near_by]) for level in self._levels]
            if len(asked) == 1 or sum(int(near.length.sum()) for near in found) <= most:
                break
            asked = asked[: len(asked) // 2]
        ones = [np.repeat(near_by[near.asked], near.length) for near in found]
        others = [
            level.rows[consecutive(near.start, near.length)]
            for level, near in zip(self._levels, found, strict=True)
        ]
        return len(asked), np.concatenate(ones), np.concatenate(others)


def _by_size(xyxy: Floats, rows: Rows) -> Iterator[Rows]:
    """Yield the boxes of each level, the large ones first.

    Sides of one power of two are of one size; fewer small boxes join the level of the next larger size, where
    they cost less than a level of their own, which everyone would have to search.
    """
    sides = np.maximum(xyxy[:, 2] - xyxy[:, 0], xyxy[:, 3] - xyxy[:, 1])
    magnitude = np.frexp(np.maximum(sides, 0.5))[1]
    sizes, counts = np.unique(magnitude, return_counts=True)
    largest, count = sizes[-1], counts[-1]
    for size, more in zip(sizes[-2::-1], counts[-2::-1], strict=True):
        if more > count:
            yield rows[(magnitude <= largest) & (magnitude > size)]
            largest, count = size, 0
        count += more
    yield rows[magnitude <= largest]


def consecutive(starts: Rows, counts: Rows) -> Rows:
    """Return `counts[i]` consecutive numbers from `starts[i]` on, for one i after the other."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))
