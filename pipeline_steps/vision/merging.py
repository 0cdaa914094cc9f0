"""Bring together boxes of one thing that several tiles saw, each perhaps only a part of it.

The three ways are SAHI's. All work class by class, on boxes by descending score; the overlap of two boxes is
their intersection over their union, or over the smaller one:

- `nms`: a box drops every later one that it overlaps by at least the threshold.
- `greedynmm`: it takes those in instead. First it is settled who takes whom, by the boxes as they were found.
  Then each keeper is united with those it took, best first, but only while its box, grown so far, overlaps
  the next by *more* than the threshold; one that no longer does is dropped all the same. The keeper has the
  best score of them, which is its own.
- `nmm`: as `greedynmm`, but what was taken takes further boxes for its keeper, so that chains become one box.

One difference: of equally scored boxes the left one comes first, in `nmm` too, where SAHI lets both stay.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from pipeline_steps.artifacts import Boxes
from pipeline_steps.geometry import Metric, Rows, absorb, best_first
from pipeline_steps.models import LocalBoxes

Method: TypeAlias = Literal["greedynmm", "nmm", "nms"]
Edges: TypeAlias = tuple[float, float, float, float]


def merged(boxes: LocalBoxes, method: Method, metric: Metric, threshold: float) -> LocalBoxes:
    """Return one box for each thing, by descending score."""
    kept: list[Rows] = []
    grown: list[Boxes] = []
    for label in np.unique(boxes.label):
        rows = np.flatnonzero(boxes.label == label)
        xyxy = boxes.xyxy[rows]
        groups = absorb(xyxy, boxes.score[rows], threshold, metric, chains=method == "nmm")
        keepers = np.array([keeper for keeper, _ in groups], np.intp)
        kept.append(rows[keepers])
        grown.append(xyxy[keepers] if method == "nms" else _united(xyxy, groups, metric, threshold))
    if not kept:
        return boxes
    chosen = boxes.take(np.concatenate(kept))
    result = LocalBoxes(np.concatenate(grown), chosen.score, chosen.label)
    return result.take(best_first(result.xyxy, result.score))


def _united(xyxy: Boxes, groups: list[tuple[int, Rows]], metric: Metric, threshold: float) -> Boxes:
    edges: list[Edges] = [tuple(box) for box in xyxy.tolist()]
    united: list[Edges] = []
    for keeper, taken in groups:
        box = edges[keeper]
        for row in taken.tolist():
            other = edges[row]
            if _match(box, other, metric) > threshold:
                box = (
                    min(box[0], other[0]),
                    min(box[1], other[1]),
                    max(box[2], other[2]),
                    max(box[3], other[3]),
                )
        united.append(box)
    return np.array(united, np.float32).reshape(-1, 4)


def _match(a: Edges, b: Edges, metric: Metric) -> float:
    # Plain floats: a group has a handful of boxes, for which arrays would cost more than they save.
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    whole = min(area_a, area_b) if metric == "ios" else area_a + area_b - shared
    return shared / whole if whole > 0 else 0.0
