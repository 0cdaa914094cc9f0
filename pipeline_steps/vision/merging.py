"""Bring together boxes of one thing that several tiles saw, each perhaps only a part of it.

The three ways are SAHI's, and give what SAHI 0.12.8 gives for the same boxes. All work on boxes by descending
score, class by class unless told otherwise; the overlap of two boxes is their intersection over their union,
or over the smaller one:

- `nms`: a box drops every later one that it overlaps by at least the threshold.
- `greedynmm`: it takes those in instead. First it is settled who takes whom, by the boxes as they were found.
  Then each keeper is united with those it took, best first, but only while its box, grown so far, overlaps
  the next by at least the threshold; one that no longer does is dropped all the same. The keeper has the
  best score of them, which is its own.
- `nmm`: as `greedynmm`, but what was taken takes further boxes for its keeper, so that chains become one box.
  Of equally scored boxes none takes another, except its exact twin; and boxes are united in the order they
  came in. Both are accidents of SAHI's, kept so that results are the same.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline_steps.geometry import Groups, Metric, Rows, absorb, aligned_overlaps, best_first
from pipeline_steps.models import LocalBoxes

Method: TypeAlias = Literal["greedynmm", "nmm", "nms"]


def merged(
    boxes: LocalBoxes, method: Method, metric: Metric, threshold: float, *, class_agnostic: bool = False
) -> LocalBoxes:
    """Return one box for each thing, by descending score.

    Args:
        boxes: what was found, in one frame.
        method: how boxes of one thing are brought together.
        metric: of their overlap.
        threshold: overlap, above 0, from which two boxes are one thing.
        class_agnostic: whether boxes of different classes may be one thing too.
    """
    kind = None if class_agnostic else _numbered(boxes.label)
    groups = absorb(boxes.xyxy, boxes.score, threshold, metric, kind=kind, chains=method == "nmm")
    kept = boxes.take(groups.keeper)
    if method != "nms":
        kept = _united(kept, boxes, groups, metric, threshold)
    return kept.take(best_first(kept.xyxy, kept.score))


def _united(
    kept: LocalBoxes, boxes: LocalBoxes, groups: Groups, metric: Metric, threshold: float
) -> LocalBoxes:
    """Let every keeper grow by what it took: all by their first at once, then all by their second, and so on.

    Where classes may mix, a keeper takes the class of the last that is scored as high as itself, as in SAHI.
    """
    grown = kept.xyxy.astype(np.float64)
    label = kept.label.copy()
    first = np.cumsum(groups.counts) - groups.counts
    longest_first = np.argsort(-groups.counts, kind="stable")
    still_growing = np.searchsorted(-groups.counts[longest_first], -np.arange(groups.counts.max(initial=0)))
    for turn, growing in enumerate(still_growing.tolist()):
        rows = longest_first[:growing]
        taken = groups.taken[first[rows] + turn]
        other = boxes.xyxy[taken].astype(np.float64)
        fits = aligned_overlaps(grown[rows], other, metric) >= threshold
        rows, taken, other = rows[fits], taken[fits], other[fits]
        grown[rows, :2] = np.minimum(grown[rows, :2], other[:, :2])
        grown[rows, 2:] = np.maximum(grown[rows, 2:], other[:, 2:])
        equal = boxes.score[taken] == kept.score[rows]
        label[rows[equal]] = boxes.label[taken[equal]]
    return LocalBoxes(grown.astype(np.float32), kept.score, label)


def _numbered(label: npt.NDArray[np.str_]) -> Rows | None:
    """Return a number for each label; None if all are the same."""
    if (label == label[:1]).all():
        return None
    return np.unique(label, return_inverse=True)[1]
