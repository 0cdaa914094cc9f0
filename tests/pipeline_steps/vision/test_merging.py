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
def test_a_box_at_exactly_the_threshold_is_the_same_thing(method: Method) -> None:
    touching = local(((0, 0, 20, 10), 0.9), ((10, 0, 30, 10), 0.8))

    widened = [0, 0, 20 if method == "nms" else 30, 10]
    assert merged(touching, method, "ios", 0.5).xyxy.tolist() == [widened]


def test_without_regard_to_classes_the_better_one_names_the_thing() -> None:
    both = local(((0, 0, 10, 10), 0.8, "weed"), ((2, 0, 12, 10), 0.9, "plant"))

    one = merged(both, "greedynmm", "ios", 0.5, class_agnostic=True)

    assert one.label.tolist() == ["plant"]
    assert one.xyxy.tolist() == [[0, 0, 12, 10]]


def test_of_equally_scored_boxes_plain_merging_unites_twins_only() -> None:
    boxes = local(((0, 0, 10, 10), 0.8), ((0, 0, 10, 10), 0.8), ((2, 0, 12, 10), 0.8))

    assert merged(boxes, "nmm", "ios", 0.5).xyxy.tolist() == [[0, 0, 10, 10], [2, 0, 12, 10]]
    assert merged(boxes, "greedynmm", "ios", 0.5).xyxy.tolist() == [[0, 0, 12, 10]]


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


def united(one: Box, other: Box) -> Box:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def plainly_merged(
    rows: list[Row], method: Method, metric: Metric, threshold: float, *, class_agnostic: bool
) -> list[Row]:
    """Return what merging means, written down step by step."""
    by_turn = sorted(range(len(rows)), key=lambda row: (-rows[row][1], *rows[row][0]))
    keeper: dict[int, int] = {}
    groups: dict[int, list[int]] = {}
    for row in by_turn:
        if row not in keeper:
            keeper[row] = row
            groups[row] = []
        elif method != "nmm":
            continue
        box, score, label = rows[row]
        for other in range(len(rows)) if method == "nmm" else by_turn:
            its_box, its_score, its_label = rows[other]
            twin_or_less = its_score < score or (its_score == score and its_box == box)
            if (
                other not in keeper
                and (class_agnostic or its_label == label)
                and overlap(box, its_box, metric) >= threshold
                and (method != "nmm" or twin_or_less)
            ):
                keeper[other] = keeper[row]
                groups[keeper[row]].append(other)
    result: list[Row] = []
    for row, taken in groups.items():
        box, score, label = rows[row]
        for other in taken if method != "nms" else []:
            if overlap(box, rows[other][0], metric) >= threshold:
                box = united(box, rows[other][0])
                label = rows[other][2] if rows[other][1] == score else label
        result.append((box, score, label))
    return result


@st.composite
def found(draw: st.DrawFn) -> list[Row]:
    """Boxes on a small field, so that many overlap; some scored alike, some at the very same place."""
    rows = []
    for _ in range(draw(st.integers(0, 20))):
        x, y = draw(st.integers(0, 40)), draw(st.integers(0, 40))
        w, h = draw(st.integers(1, 30)), draw(st.integers(1, 30))
        rows.append(
            ((x, y, x + w, y + h), draw(st.integers(1, 12)) / 16, draw(st.sampled_from(["plant", "weed"])))
        )
    return rows + rows[: draw(st.integers(0, 2))]


@settings(max_examples=500)
@given(
    found(),
    st.sampled_from(METHODS),
    st.sampled_from(["iou", "ios"]),
    st.sampled_from([0.1, 0.25, 0.5, 0.8, 1.0]),
    st.booleans(),
)
def test_merging_is_the_rule_written_down(
    rows: list[Row], method: Method, metric: Metric, threshold: float, class_agnostic: bool
) -> None:
    fast = merged(local(*rows), method, metric, threshold, class_agnostic=class_agnostic)

    expected = plainly_merged(rows, method, metric, threshold, class_agnostic=class_agnostic)
    assert sorted(as_rows(fast)) == sorted(expected)


def as_rows(boxes: LocalBoxes) -> list[Row]:
    edges = [tuple(box) for box in boxes.xyxy.tolist()]
    return list(zip(edges, boxes.score.tolist(), boxes.label.tolist(), strict=True))


@given(found(), st.sampled_from(METHODS))
def test_merging_never_loses_a_label_and_sorts_by_score(rows: list[Row], method: Method) -> None:
    result = merged(local(*rows), method, "ios", 0.5)

    assert set(result.label.tolist()) == {label for _, _, label in rows}
    assert result.score.tolist() == sorted(result.score.tolist(), reverse=True)
