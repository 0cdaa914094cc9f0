"""Arithmetic of boxes: areas, overlaps, clipping, suppression, tiles, reading order.

A box is a row x1 y1 x2 y2 in pixels, its right and lower edges exclusive. Everything here is a pure
function of arrays; nothing knows of models or steps. `regions.py` does the same for masks.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline_steps.artifacts import Boxes

Floats: TypeAlias = npt.NDArray[np.float64]
Reals: TypeAlias = npt.NDArray[np.floating[Any]]
"""Boxes (n, 4) or scores (n,) of any precision; what is returned is computed in float64."""
Rows: TypeAlias = npt.NDArray[np.intp]
Metric: TypeAlias = Literal["iou", "ios"]
"""Intersection over union, or over the smaller of the two boxes."""

ROWS_AT_ONCE = 2_000_000
"""Pairs compared in one go by `overlaps`: 16 MB an intermediate array."""


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


def suppress(xyxy: Reals, score: Reals, threshold: float, metric: Metric = "iou") -> Rows:
    """Return the rows that remain after non-maximum suppression, by descending score.

    The best box stays and every other that overlaps it by at least `threshold` goes; then the best of the
    rest.
    """
    return np.array([kept for kept, _ in absorb(xyxy, score, threshold, metric)], np.intp)


def absorb(
    xyxy: Reals, score: Reals, threshold: float, metric: Metric = "iou", *, chains: bool = False
) -> list[tuple[int, Rows]]:
    """Return each box that stays with the rows it absorbs, both by descending score; each row appears once.

    The best box absorbs every other that overlaps it by at least `threshold` (above 0), then the best of the
    rest does. With `chains` what was absorbed goes on absorbing for its keeper. Equal scores go from left to
    right, then from top to bottom, so that the order boxes come in never matters.

    A box is compared only with those whose left edges are near enough to meet it, which are neighbours in an
    array sorted by left edge: 10 000 boxes take a fraction of a second, and memory grows with their number
    only.
    """
    if len(xyxy) == 0:
        return []
    by_left = np.argsort(xyxy[:, 0], kind="stable")
    boxes = xyxy[by_left].astype(np.float64)
    sizes, lefts = area(boxes), boxes[:, 0]
    order = best_first(boxes, score[by_left])
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    first = np.searchsorted(lefts, lefts - (boxes[:, 2] - lefts).max(), side="left").tolist()
    last = np.searchsorted(lefts, boxes[:, 2], side="left").tolist()
    free = np.ones(len(boxes), np.bool_)
    keeper = np.arange(len(boxes))
    absorbed: dict[int, list[Rows]] = {}

    for row in order.tolist():
        if free[row]:
            free[row] = False
            absorbed[row] = []
        elif not chains:
            continue
        near = first[row] + np.flatnonzero(free[first[row] : last[row]])
        found = _overlap(boxes[row], sizes[row], boxes[near], sizes[near], metric) >= threshold
        taken = near[found]
        if len(taken):
            free[taken] = False
            keeper[taken] = keeper[row]
            absorbed[int(keeper[row])].append(taken)

    return [(int(by_left[row]), by_left[_by_rank(parts, rank)]) for row, parts in absorbed.items()]


def best_first(xyxy: Reals, score: Reals) -> Rows:
    """Return the rows by descending score; equal ones from left to right, then from top to bottom."""
    return np.lexsort((xyxy[:, 3], xyxy[:, 2], xyxy[:, 1], xyxy[:, 0], -score))


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


def _by_rank(parts: list[Rows], rank: Rows) -> Rows:
    rows = np.concatenate([np.zeros(0, np.intp), *parts])
    return rows[np.argsort(rank[rows])]


def _overlap(a: Floats, area_a: Floats, b: Floats, area_b: Floats, metric: Metric) -> Floats:
    wide = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    high = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    shared = np.maximum(wide, 0) * np.maximum(high, 0)
    whole = np.minimum(area_a, area_b) if metric == "ios" else area_a + area_b - shared
    ratio: Floats = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return ratio


def _starts(length: int, tile: int, shared: int) -> npt.NDArray[np.int64]:
    """Return where tiles start on one axis: every `tile - shared` pixels until one reaches the end."""
    count = 1 + max(0, -(-(length - tile) // (tile - shared)))
    return np.minimum(np.arange(count) * (tile - shared), max(0, length - tile))
