"""Arithmetic of masks and regions."""

from __future__ import annotations

from collections import deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline_steps.artifacts import Mask
from pipeline_steps.regions import connected, dilated, eroded, inside, opened, owners
from tests.pipeline_steps.fakes import segments_of

bits = arrays.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))
class_maps = arrays.arrays(
    np.int16, st.tuples(st.integers(1, 10), st.integers(1, 10)), elements=st.integers(-1, 2)
)


def flooded(classes: np.ndarray) -> list[tuple[int, frozenset[tuple[int, int]]]]:
    """Return the regions as a flood fill finds them, in order of their first pixel."""
    height, width = classes.shape
    seen: set[tuple[int, int]] = set()
    found = []
    for start in np.ndindex(height, width):
        if classes[start] < 0 or start in seen:
            continue
        region, queue = {start}, deque([start])
        while queue:
            y, x = queue.popleft()
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                there = 0 <= near[0] < height and 0 <= near[1] < width
                if there and near not in region and classes[near] == classes[start]:
                    region.add(near)
                    queue.append(near)
        seen |= region
        found.append((int(classes[start]), frozenset(region)))
    return found


@given(class_maps)
def test_regions_are_those_of_a_flood_fill(classes: np.ndarray) -> None:
    found = connected(classes)

    expected = flooded(classes)
    assert found.value.tolist() == [value for value, _ in expected]
    assert found.area.tolist() == [len(region) for _, region in expected]
    for number, (_, region) in enumerate(expected):
        mask = found.mask(number)
        set_pixels = {(int(y) + mask.y, int(x) + mask.x) for y, x in np.argwhere(mask.bits)}
        assert set_pixels == region


def test_a_spiral_is_one_region() -> None:
    # The longest way round for whoever joins runs step by step.
    size = 41
    spiral = np.full((size, size), -1, np.int16)
    y, x, dy, dx = 0, 0, 0, 1
    for length in (size - 1, *(n for n in range(size - 1, 0, -2) for _ in (0, 1))):
        for _ in range(length):
            spiral[y, x] = 0
            y, x = y + dy, x + dx
        spiral[y, x] = 0
        dy, dx = dx, -dy

    assert len(connected(spiral).area) == 1


@given(bits, st.integers(0, 15))
def test_growing_sets_whatever_has_a_set_pixel_near(mask: np.ndarray, radius: int) -> None:
    grown = dilated(mask, radius)

    for y, x in np.ndindex(mask.shape):
        near = mask[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        assert grown[y, x] == near.any()


@given(bits, st.integers(0, 15))
def test_shrinking_keeps_whatever_is_surrounded(mask: np.ndarray, radius: int) -> None:
    shrunk = eroded(mask, radius)

    for y, x in np.ndindex(mask.shape):
        near = mask[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        assert shrunk[y, x] == near.all()


@given(bits)
def test_opening_only_takes_away_and_does_so_once(mask: np.ndarray) -> None:
    once = opened(mask)

    assert not (once & ~mask).any()
    assert np.array_equal(opened(once), once)


def test_a_point_is_inside_a_mask_where_its_pixel_is_set() -> None:
    mask = Mask(np.array([[True, False], [True, True]]), x=10, y=20)

    points = np.array([[10.0, 20.9], [11.5, 20.5], [11.99, 21.0], [9.99, 21.0], [12.0, 21.0], [-3.0, 4.0]])

    assert inside(mask, points).tolist() == [True, False, True, False, False, False]


def test_the_smallest_segment_owns_a_point_that_several_hold() -> None:
    segments = segments_of(("cajon", (40, 40, 60, 60)), ("segmento", (0, 0, 100, 100)))

    assert owners(segments, np.array([[50.0, 50.0], [10.0, 10.0], [100.0, 10.0]])).tolist() == [101, 102, 0]


def test_a_mask_decides_over_its_box() -> None:
    hollow = Mask(np.array([[True, False]]), x=0, y=0)
    segments = segments_of(("cajon", (0, 0, 2, 1)), masks=[hollow])

    assert owners(segments, np.array([[0.5, 0.5], [1.5, 0.5]])).tolist() == [101, 0]
