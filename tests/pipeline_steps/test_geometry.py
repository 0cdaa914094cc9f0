"""Arithmetic of boxes."""

from __future__ import annotations

from dataclasses import astuple
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps.geometry import (
    Metric,
    absorb,
    area,
    clip,
    overlaps,
    reading_order,
    suppress,
    tiles,
)
from pipeline_steps.neighbours import Neighbourhood

METRICS: tuple[Metric, ...] = ("iou", "ios")


@st.composite
def boxes(draw: st.DrawFn, most: int = 30) -> np.ndarray:
    n = draw(st.integers(0, most))
    edge = st.integers(0, 60)
    rows = [(draw(edge), draw(edge), draw(st.integers(1, 30)), draw(st.integers(1, 30))) for _ in range(n)]
    return np.array([(x, y, x + w, y + h) for x, y, w, h in rows], np.float32).reshape(-1, 4)


scores = st.integers(0, 5).map(lambda tenth: tenth / 10)


def plain_overlap(one_box: np.ndarray, other_box: np.ndarray, metric: Metric) -> float:
    a, b = one_box.tolist(), other_box.tolist()  # float64, as whatever is compared with a threshold
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    one, other = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return float(shared / (min(one, other) if metric == "ios" else one + other - shared))


def test_overlap_of_a_box_half_in_another() -> None:
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array([[5, 0, 15, 10], [0, 0, 5, 10], [20, 20, 30, 30], [3, 3, 3, 3]], np.float32)

    assert overlaps(a, b, "iou")[0] == pytest.approx([1 / 3, 0.5, 0, 0])
    assert overlaps(a, b, "ios")[0] == pytest.approx([0.5, 1, 0, 0])


@given(boxes(), boxes(), st.sampled_from(METRICS))
def test_overlaps_are_those_of_the_definition(a: np.ndarray, b: np.ndarray, metric: Metric) -> None:
    found = overlaps(a, b, metric)

    expected = [[plain_overlap(one, other, metric) for other in b] for one in a]
    assert found.shape == (len(a), len(b))
    assert found == pytest.approx(np.array(expected).reshape(found.shape), abs=1e-6)


def test_a_matrix_too_large_for_one_go_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 100, (50, 2))
    some = np.concatenate([corner, corner + rng.uniform(1, 50, (50, 2))], axis=1).astype(np.float32)
    at_once = overlaps(some, some)

    monkeypatch.setattr("pipeline_steps.geometry.ROWS_AT_ONCE", 7)

    assert np.array_equal(overlaps(some, some), at_once)


def test_boxes_are_clipped_at_the_edges_of_the_picture() -> None:
    outside = np.array([[-5, -5, 10, 10], [90, 40, 120, 60], [200, 0, 210, 10]], np.float32)

    assert clip(outside, 100, 50).tolist() == [[0, 0, 10, 10], [90, 40, 100, 50], [100, 0, 100, 10]]


def test_area_of_an_inverted_box_is_nothing() -> None:
    assert area(np.array([[0, 0, 3, 4], [5, 5, 2, 2]], np.float32)).tolist() == [12, 0]


@given(boxes(), st.data(), st.sampled_from(METRICS), st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_suppression_is_that_of_the_definition(
    xyxy: np.ndarray, data: st.DataObject, metric: Metric, threshold: float
) -> None:
    score = np.array([data.draw(scores) for _ in xyxy], np.float32)
    kept = suppress(xyxy, score, threshold, metric)

    expected: list[int] = []
    for row in sorted(range(len(xyxy)), key=lambda i: (-score[i], *xyxy[i].tolist())):
        if all(plain_overlap(xyxy[row], xyxy[other], metric) < threshold for other in expected):
            expected.append(row)
    assert kept.tolist() == expected


@given(boxes(), st.data())
def test_suppressing_twice_changes_nothing(xyxy: np.ndarray, data: st.DataObject) -> None:
    score = np.array([data.draw(scores) for _ in xyxy], np.float32)
    once = suppress(xyxy, score, 0.5)

    again = suppress(xyxy[once], score[once], 0.5)

    assert again.tolist() == list(range(len(once)))


@given(boxes(), st.data(), st.booleans())
def test_every_box_stays_or_is_absorbed_once(xyxy: np.ndarray, data: st.DataObject, chains: bool) -> None:
    score = np.array([data.draw(scores) for _ in xyxy], np.float32)
    groups = absorb(xyxy, score, 0.3, "ios", chains=chains)

    assert sorted([*groups.keeper.tolist(), *groups.taken.tolist()]) == list(range(len(xyxy)))
    assert groups.counts.sum() == len(groups.taken)
    kept = score[groups.keeper].tolist()
    assert kept == sorted(kept, reverse=True)


@given(boxes(), st.data(), st.booleans())
def test_what_is_taken_a_few_pairs_at_a_time_is_the_same(
    xyxy: np.ndarray, data: st.DataObject, chains: bool
) -> None:
    score = np.array([data.draw(scores) for _ in xyxy], np.float32)
    at_once = absorb(xyxy, score, 0.3, "ios", chains=chains)

    with mock.patch.multiple("pipeline_steps.geometry", PAIRS_AT_ONCE=5, ASKED_AT_ONCE=4):
        little_by_little = absorb(xyxy, score, 0.3, "ios", chains=chains)

    for one, other in zip(astuple(at_once), astuple(little_by_little), strict=True):
        assert one.tolist() == other.tolist()


@given(boxes(), st.data())
def test_boxes_of_another_kind_are_never_taken(xyxy: np.ndarray, data: st.DataObject) -> None:
    score = np.array([data.draw(scores) for _ in xyxy], np.float32)
    kind = np.array([data.draw(st.integers(0, 2)) for _ in xyxy], np.intp)

    groups = absorb(xyxy, score, 0.1, "ios", kind=kind)

    assert kind[np.repeat(groups.keeper, groups.counts)].tolist() == kind[groups.taken].tolist()


def test_a_pile_of_boxes_is_grouped_without_comparing_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    pile = np.tile(np.array([[10, 10, 50, 50]], np.float32), (30_000, 1))
    monkeypatch.setattr("pipeline_steps.geometry.PAIRS_AT_ONCE", 1 << 16)

    groups = absorb(pile, np.linspace(1, 0, len(pile), dtype=np.float32), 0.5)

    assert groups.keeper.tolist() == [0]
    assert groups.taken.tolist() == list(range(1, len(pile)))


@given(boxes(), boxes())
def test_the_neighbourhood_names_all_that_meet(those: np.ndarray, more: np.ndarray) -> None:
    everyone = np.concatenate([those, more])
    found = np.arange(len(those))
    asked = np.arange(len(everyone))
    if not len(found):
        return

    answered, one, other = Neighbourhood(everyone, found).meeting(asked, 1 << 30)

    assert answered == len(asked)
    named = set(zip(one.tolist(), other.tolist(), strict=True))
    assert len(named) == len(one)
    meet = np.argwhere(overlaps(everyone, everyone[found]) > 0)
    assert named >= {(int(a), int(b)) for a, b in meet}


def test_the_neighbourhood_answers_as_many_as_fit() -> None:
    row_of_boxes = np.array([(x, 0, x + 10, 10) for x in range(0, 1000, 10)], np.float32)
    near = Neighbourhood(row_of_boxes, np.arange(100))

    answered, one, _ = near.meeting(np.arange(100), 60)
    alone, pairs, _ = near.meeting(np.array([50]), 1)

    assert 1 < answered < 100
    assert len(one) <= 60
    assert set(one.tolist()) == set(range(answered))
    assert alone == 1
    assert len(pairs) > 1


def test_boxes_of_very_different_sizes_have_few_candidates() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 4000, (4000, 2))
    side = np.where(np.arange(4000) % 100 == 0, 900, 9)[:, None]
    some = np.concatenate([corner, corner + side], axis=1).astype(np.float32)

    _, one, _ = Neighbourhood(some, np.arange(4000)).meeting(np.arange(4000), 1 << 30)

    meet = int((overlaps(some, some) > 0).sum())
    assert len(one) < 4 * meet


@given(boxes(), st.data())
def test_the_order_boxes_come_in_does_not_matter(xyxy: np.ndarray, data: st.DataObject) -> None:
    score = np.array([data.draw(scores) for _ in xyxy], np.float32)
    shuffled = np.array(data.draw(st.permutations(range(len(xyxy)))), np.intp)

    straight = xyxy[suppress(xyxy, score, 0.5)]
    mixed = xyxy[shuffled][suppress(xyxy[shuffled], score[shuffled], 0.5)]

    assert np.array_equal(straight, mixed)


@pytest.mark.parametrize(
    ("width", "height", "count"),
    [(1024, 1024, 9), (1629, 2244, 24), (4000, 3000, 88), (512, 512, 1), (30, 20, 1)],
)
def test_number_of_tiles_is_sahis(width: int, height: int, count: int) -> None:
    assert len(tiles(width, height, 512, 512, 0.25)) == count


def test_the_last_tile_is_moved_back_to_its_full_size() -> None:
    assert tiles(1000, 600, 512, 512, 0.25).tolist() == [
        [0, 0, 512, 512],
        [384, 0, 896, 512],
        [488, 0, 1000, 512],
        [0, 88, 512, 600],
        [384, 88, 896, 600],
        [488, 88, 1000, 600],
    ]


def test_no_tile_is_added_where_one_ends_at_the_edge() -> None:
    # 896 = 512 + 384: the second tile ends exactly there.
    assert tiles(896, 100, 512, 512, 0.25)[:, 0].tolist() == [0, 384]


@given(
    st.integers(1, 900),
    st.integers(1, 900),
    st.integers(64, 300),
    st.integers(64, 300),
    st.sampled_from([0, 0.1, 0.25, 0.5, 0.9]),
)
def test_tiles_cover_the_picture_and_nothing_else(
    width: int, height: int, tile_width: int, tile_height: int, overlap: float
) -> None:
    cut = tiles(width, height, tile_width, tile_height, overlap)

    covered = np.zeros((height, width), np.bool_)
    for x1, y1, x2, y2 in cut.tolist():
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        assert x2 - x1 == min(tile_width, width)
        assert y2 - y1 == min(tile_height, height)
        covered[y1:y2, x1:x2] = True
    assert covered.all()
    assert len({tuple(box) for box in cut.tolist()}) == len(cut)


def test_reading_goes_line_by_line_even_if_lines_are_uneven() -> None:
    centres = [(50, 12), (10, 10), (30, 8), (12, 40), (52, 43), (31, 38)]
    xyxy = np.array([(x - 5, y - 5, x + 5, y + 5) for x, y in centres], np.float32)

    assert reading_order(xyxy).tolist() == [1, 2, 0, 3, 5, 4]


@given(boxes(), st.data())
def test_reading_order_depends_on_places_only(xyxy: np.ndarray, data: st.DataObject) -> None:
    shuffled = np.array(data.draw(st.permutations(range(len(xyxy)))), np.intp)

    straight = (xyxy[:, :2] + xyxy[:, 2:])[reading_order(xyxy)]
    mixed = (xyxy[:, :2] + xyxy[:, 2:])[shuffled][reading_order(xyxy[shuffled])]

    assert sorted(reading_order(xyxy).tolist()) == list(range(len(xyxy)))
    assert np.array_equal(straight, mixed)
