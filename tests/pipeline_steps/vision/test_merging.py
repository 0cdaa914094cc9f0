"""Boxes of one thing that several tiles saw."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_steps.geometry import Metric
from pipeline_steps.models import LocalBoxes
from pipeline_steps.vision.merging import Method, merged

METHODS: tuple[Method, ...] = ("greedynmm", "nmm", "nms")
Box: TypeAlias = tuple[float, float, float, float]


def local(*rows: tuple[Box, float] | tuple[Box, float, str]) -> LocalBoxes:
    return LocalBoxes(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[2] if len(row) > 2 else "plant" for row in rows], np.str_),
    )


def test_two_halves_of_a_plant_become_one_box_with_the_better_score() -> None:
    halves = local(((0, 0, 30, 20), 0.8), ((10, 0, 40, 20), 0.9))

    one = merged(halves, "greedynmm", "ios", 0.5)

    assert one.xyxy.tolist() == [[0, 0, 40, 20]]
    assert one.score == pytest.approx([0.9])


def test_suppression_keeps_the_better_box_as_it_is() -> None:
    halves = local(((0, 0, 30, 20), 0.8), ((10, 0, 40, 20), 0.9))

    one = merged(halves, "nms", "ios", 0.5)

    assert one.xyxy.tolist() == [[10, 0, 40, 20]]


def test_a_part_inside_a_plant_is_one_thing_by_ios_and_two_by_iou() -> None:
    part = local(((0, 0, 40, 40), 0.9), ((5, 5, 15, 15), 0.8))

    assert len(merged(part, "greedynmm", "ios", 0.5)) == 1
    assert len(merged(part, "greedynmm", "iou", 0.5)) == 2


def test_different_labels_are_never_merged() -> None:
    both = local(((0, 0, 10, 10), 0.9, "plant"), ((0, 0, 10, 10), 0.8, "weed"))

    assert merged(both, "greedynmm", "ios", 0.5).label.tolist() == ["plant", "weed"]


@pytest.mark.parametrize("method", METHODS)
def test_a_box_at_exactly_the_threshold_goes_but_does_not_widen_the_other(method: Method) -> None:
    # Half of the second lies in the first: enough to be taken, too little to be united ("more than").
    touching = local(((0, 0, 20, 10), 0.9), ((10, 0, 30, 10), 0.8))

    assert merged(touching, method, "ios", 0.5).xyxy.tolist() == [[0, 0, 20, 10]]


def test_greedy_merging_leaves_the_end_of_a_chain_and_plain_merging_takes_it() -> None:
    chain = local(((0, 0, 30, 10), 0.9), ((10, 0, 40, 10), 0.8), ((24, 0, 54, 10), 0.7))

    assert merged(chain, "greedynmm", "ios", 0.5).xyxy.tolist() == [[0, 0, 40, 10], [24, 0, 54, 10]]
    assert merged(chain, "nmm", "ios", 0.5).xyxy.tolist() == [[0, 0, 54, 10]]


def test_a_keeper_that_outgrew_a_box_drops_it_without_widening() -> None:
    # By IoU the keeper matches both, but united with the first it no longer matches the second enough.
    boxes = local(((0, 0, 10, 10), 0.9), ((0, 0, 10, 18), 0.8), ((0, 0, 18, 10), 0.7))

    assert merged(boxes, "greedynmm", "iou", 0.5).xyxy.tolist() == [[0, 0, 10, 18]]


def test_nothing_merges_to_nothing() -> None:
    assert len(merged(local(), "greedynmm", "ios", 0.5)) == 0


Row: TypeAlias = tuple[Box, float, str]


def overlap(a: Box, b: Box, metric: Metric) -> float:
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    one, other = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return shared / (min(one, other) if metric == "ios" else one + other - shared)


def plainly_merged(rows: list[Row], metric: Metric, threshold: float) -> list[Row]:
    """Return what greedy merging means, written down step by step."""
    waiting = sorted(rows, key=lambda row: (-row[1], *row[0]))
    result: list[Row] = []
    while waiting:
        box, score, label = waiting.pop(0)
        taken = [row for row in waiting if row[2] == label and overlap(box, row[0], metric) >= threshold]
        waiting = [row for row in waiting if row not in taken]
        for other, _, _ in taken:
            if overlap(box, other, metric) > threshold:
                box = (
                    min(box[0], other[0]),
                    min(box[1], other[1]),
                    max(box[2], other[2]),
                    max(box[3], other[3]),
                )
        result.append((box, score, label))
    return result


@st.composite
def found(draw: st.DrawFn) -> list[Row]:
    rows = []
    for i in range(draw(st.integers(0, 14))):
        x, y = draw(st.integers(0, 40)), draw(st.integers(0, 40))
        w, h = draw(st.integers(1, 30)), draw(st.integers(1, 30))
        rows.append(((x, y, x + w, y + h), (i + 1) / 16, draw(st.sampled_from(["plant", "weed"]))))
    return rows


@settings(max_examples=300)
@given(found(), st.sampled_from(["iou", "ios"]), st.sampled_from([0.2, 0.5, 0.8]))
def test_greedy_merging_is_the_rule_written_down(rows: list[Row], metric: Metric, threshold: float) -> None:
    fast = merged(local(*rows), "greedynmm", metric, threshold)

    expected = plainly_merged(rows, metric, threshold)
    assert sorted(map(tuple, fast.xyxy.tolist())) == sorted(box for box, _, _ in expected)
    assert sorted(fast.score.tolist()) == pytest.approx(sorted(score for _, score, _ in expected))


@given(found(), st.sampled_from(METHODS))
def test_merging_never_loses_a_label_and_sorts_by_score(rows: list[Row], method: Method) -> None:
    result = merged(local(*rows), method, "ios", 0.5)

    assert set(result.label.tolist()) == {label for _, _, label in rows}
    assert result.score.tolist() == sorted(result.score.tolist(), reverse=True)
