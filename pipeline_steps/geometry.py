"""Arithmetic of boxes: areas, overlaps, clipping, suppression, tiles, reading order.

A box is a row x1 y1 x2 y2 in pixels, its right and lower edges exclusive. Everything here is a pure
function of arrays; nothing knows of models or steps. `regions.py` does the same for masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from pipeline_steps.artifacts import Boxes
from pipeline_steps.neighbours import Neighbourhood

Floats: TypeAlias = npt.NDArray[np.float64]
Reals: TypeAlias = npt.NDArray[np.floating[Any]]
"""Boxes (n, 4) or scores (n,) of any precision; what is returned is computed in float64, unless it says."""
Rows: TypeAlias = npt.NDArray[np.intp]
T = TypeVar("T", bound=npt.NDArray[np.floating[Any]])
Metric: TypeAlias = Literal["iou", "ios"]
"""Intersection over union, or over the smaller of the two boxes."""

ROWS_AT_ONCE = 2_000_000
"""Pairs compared in one go by `overlaps`: 16 MB an intermediate array."""
PAIRS_AT_ONCE = 1 << 19
"""Pairs compared in one go by `absorb`: about 60 bytes each."""
ASKED_AT_ONCE = 512
"""Boxes that ask in one go, or a 32nd of all if that is more: few, as most others are then taken unasked."""

_FREE = -1


def area(xyxy: Reals) -> Floats:
    """Return each box's area in square pixels, (n,)."""
    sides = np.maximum(xyxy[:, 2:].astype(np.float64) - xyxy[:, :2], 0)
    return np.asarray(sides[:, 0] * sides[:, 1])


def centres(xyxy: Reals) -> Floats:
    """Return each box's centre x, y, (n, 2)."""
    return np.asarray((xyxy[:, :2].astype(np.float64) + xyxy[:, 2:]) / 2)


def clip(xyxy: Reals, width: int, height: int) -> Boxes:
    """Return the boxes cut at the edges of a picture of that size."""
    return np.clip(xyxy, 0, np.array([width, height, width, height], np.float32)).astype(np.float32)


def overlaps(a: Reals, b: Reals, metric: Metric = "iou") -> npt.NDArray[np.float32]:
    """Return the overlap of every box of `a` with every box of `b`, (len(a), len(b)), 0 to 1.

    Boxes without area overlap nothing. The result itself is the only large array: intermediate ones are made
    for a few rows at a time.
    """
    result = np.empty((len(a), len(b)), np.float32)
    rows = max(1, ROWS_AT_ONCE // max(1, len(b)))
    b64, area_b = b.astype(np.float64), area(b)
    for start in range(0, len(a), rows):
        part = a[start : start + rows].astype(np.float64)
        result[start : start + rows] = _overlap(part[:, None, :], area(part)[:, None], b64, area_b, metric)
    return result


def aligned_overlaps(a: Floats, b: Floats, metric: Metric = "iou") -> Floats:
    """Return the overlap of each box of `a` with the one of `b` in its place, (n,), 0 to 1."""
    return _overlap(a, area(a), b, area(b), metric)


def suppress(xyxy: Reals, score: Reals, threshold: float, metric: Metric = "iou") -> Rows:
    """Return the rows that remain after non-maximum suppression, by descending score.

    The best box stays and every other that overlaps it by at least `threshold` goes; then the best of the
    rest.
    """
    return absorb(xyxy, score, threshold, metric).keeper


@dataclass(frozen=True, eq=False, slots=True)
class Groups:
    """Boxes that stay, and those that each of them takes: rows of the boxes that were given."""

    keeper: Rows
    """By descending score."""
    taken: Rows
    """Of the first keeper, in the order they were taken, then of the second, and so on."""
    counts: Rows
    """How many each keeper takes."""


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Boxes by descending score."""

    boxes: Boxes
    sizes: Boxes
    """Their areas."""
    scores: Reals
    kinds: Rows | None

    def overlapping(self, one: Rows, other: Rows, threshold: float, metric: Metric) -> tuple[Rows, Rows]:
        """Return those of the pairs that are of one kind and overlap by at least `threshold`."""
        if self.kinds is not None:
            alike = self.kinds[one] == self.kinds[other]
            one, other = one[alike], other[alike]
        # `take`, and not `boxes[one]`: it copies rows several times as fast.
        first, second = ((self.boxes.take(row, 0), self.sizes.take(row)) for row in (one, other))
        enough = _overlap(*first, *second, metric) >= threshold
        return one[enough], other[enough]

    def of_chains(self, one: Rows, other: Rows) -> tuple[Rows, Rows]:
        """Return those of which the first is scored higher than the second, or is its twin."""
        higher = self.scores[one] > self.scores[other]
        may = higher | (self.boxes[one] == self.boxes[other]).all(axis=1)
        return one[may], other[may]


def absorb(
    xyxy: Reals,
    score: Reals,
    threshold: float,
    metric: Metric = "iou",
    *,
    kind: Rows | None = None,
    chains: bool = False,
) -> Groups:
    """Return the boxes that stay, each with those it takes: every box is in the answer once.

    The best box takes every other that overlaps it by at least `threshold` (above 0), best first, then the
    best of the rest does. Equal scores go from left to right, then from top to bottom, so that the order
    boxes come in does not matter.

    With `chains` what was taken goes on taking for its keeper, in the order boxes came in, and never a box
    scored as high as itself that is not its twin: these are SAHI's rules, see `vision/merging.py`.

    Overlaps are computed in float32, for those pairs only that may meet: the time grows as the number of
    boxes and of their overlaps, and at most `PAIRS_AT_ONCE` pairs are in memory.

    Args:
        xyxy: boxes, (n, 4).
        score: of each.
        threshold: overlap from which one box takes another.
        metric: of the overlap.
        kind: of each box; only boxes of one kind take one another. None: all are of one.
        chains: whether what is taken takes others.
    """
    order = best_first(xyxy, score)
    boxes = xyxy[order].astype(np.float32)
    ranked = _Ranked(boxes, _area32(boxes), score[order], None if kind is None else kind[order])
    free = np.ones(len(boxes), np.bool_)
    keeper = [_FREE] * len(boxes)
    claimed: list[int] = []
    at_once = max(ASKED_AT_ONCE, len(boxes) // 32)

    near, inside, at = None, 0, 0
    while (left := int(np.count_nonzero(free))) > 0:
        if near is None or 4 * left < inside:
            near, inside = Neighbourhood(boxes, np.flatnonzero(free)), left
        # What is taken already asks nobody, and is asked for by nobody, unless there are chains.
        asked = at + np.flatnonzero(free[at:] | chains)[:at_once]
        answered, one, other = near.meeting(asked, PAIRS_AT_ONCE)
        asked = asked[:answered]
        can = (other > one) & free[other]
        one, other = ranked.overlapping(one[can], other[can], threshold, metric)
        if chains:
            one, other = ranked.of_chains(one, other)
        by_turn = np.argsort(one * len(order) + (order[other] if chains else other))
        taken = _claim(asked, one[by_turn], other[by_turn], keeper, chains=chains)
        free[taken] = False
        free[asked] = False
        claimed += taken
        at = int(asked[-1]) + 1

    return _grouped(order, np.array(keeper, np.intp), np.array(claimed, np.intp))


def _claim(asked: Rows, one: Rows, other: Rows, keeper: list[int], *, chains: bool) -> list[int]:
    """Let each box of `asked` in turn take those of its pairs that are still free; return who was taken."""
    ends = np.searchsorted(one, asked, side="right").tolist()
    others = other.tolist()
    taken: list[int] = []
    start = 0
    for box, end in zip(asked.tolist(), ends, strict=True):
        own = keeper[box]
        if own == _FREE:
            own = keeper[box] = box
        elif not chains:
            start = end
            continue
        for candidate in others[start:end]:
            if keeper[candidate] == _FREE:
                keeper[candidate] = own
                taken.append(candidate)
        start = end
    return taken


def _grouped(order: Rows, keeper: Rows, claimed: Rows) -> Groups:
    keepers = np.flatnonzero(keeper == np.arange(len(keeper)))
    by_keeper = np.argsort(keeper[claimed], kind="stable")
    counts = np.bincount(keeper[claimed], minlength=len(keeper))[keepers]
    return Groups(order[keepers], order[claimed[by_keeper]], counts)


def best_first(xyxy: Reals, score: Reals) -> Rows:
    """Return the rows by descending score; equal ones from left to right, then from top to bottom."""
    order = np.argsort(-score, kind="stable")
    same = score[order[1:]] == score[order[:-1]]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    rows = order[tied]  # few, as a rule: sorting all of them by five columns takes five times as long
    by_place = (xyxy[rows, 3], xyxy[rows, 2], xyxy[rows, 1], xyxy[rows, 0], -score[rows])
    order[tied] = rows[np.lexsort(by_place)]
    return order


def tiles(
    width: int, height: int, tile_width: int, tile_height: int, overlap: float
) -> npt.NDArray[np.int32]:
    """Return the tiles that cover a picture, (n, 4), row by row.

    As SAHI's `get_slice_bboxes` cuts them: neighbours share `int(overlap * side)` pixels, the last tile of
    a row or column is moved back so that it is full-sized too, and a picture smaller than a tile is one
    tile.
    """
    xs = _starts(width, tile_width, int(overlap * tile_width))
    ys = _starts(height, tile_height, int(overlap * tile_height))
    y, x = (grid.ravel() for grid in np.meshgrid(ys, xs, indexing="ij"))
    right, bottom = np.minimum(x + tile_width, width), np.minimum(y + tile_height, height)
    return np.stack([x, y, right, bottom], axis=1).astype(np.int32)


def reading_order(xyxy: Reals) -> Rows:
    """Return the rows as one reads: line by line from the top, each from left to right.

    A line holds the boxes whose centres lie at most half a median height below its topmost one. The order
    depends on places only, never on scores or on the order boxes come in.
    """
    if len(xyxy) == 0:
        return np.zeros(0, np.intp)
    x, y = centres(xyxy).T
    down = np.lexsort((x, y))
    reach = float(np.median(xyxy[:, 3] - xyxy[:, 1])) / 2
    sorted_y = y[down]
    lines: list[Rows] = []
    start = 0
    while start < len(down):
        end = int(np.searchsorted(sorted_y, sorted_y[start] + reach, side="right"))
        line = down[start:end]
        lines.append(line[np.lexsort((y[line], x[line]))])
        start = end
    return np.concatenate(lines)


def _area32(xyxy: Boxes) -> Boxes:
    sides = np.maximum(xyxy[:, 2:] - xyxy[:, :2], 0)
    return np.asarray(sides[:, 0] * sides[:, 1])


def _overlap(a: T, area_a: T, b: T, area_b: T, metric: Metric) -> T:
    """Return the overlap of each of `a` with the one of `b` beside it, in the precision they come in."""
    wide = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    high = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    shared = np.maximum(wide, 0) * np.maximum(high, 0)
    whole = np.minimum(area_a, area_b) if metric == "ios" else area_a + area_b - shared
    return cast(T, np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0))


def _starts(length: int, tile: int, shared: int) -> npt.NDArray[np.int64]:
    """Return where tiles start on one axis: every `tile - shared` pixels until one reaches the end."""
    count = 1 + max(0, -(-(length - tile) // (tile - shared)))
    return np.minimum(np.arange(count) * (tile - shared), max(0, length - tile))
