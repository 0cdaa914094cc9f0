"""Whether the benchmarks' comparisons of answers can fail."""

from __future__ import annotations

import numpy as np

from benchmarks.e_tiles import in_both
from benchmarks.sam_sides import Agreement
from pipeline_steps.artifacts import Mask
from pipeline_steps.masks import run_lengths

SIZE = (100, 200)


def square(x: int, without: int = 0) -> str:
    """The run lengths of a mask of 1600 pixels, without some of them."""
    bits = np.ones((40, 40), np.bool_)
    bits[0, :without] = False
    return run_lengths(Mask(bits, x, 5), SIZE[1], SIZE[0])


def test_the_same_masks_in_another_order_are_the_same_masks() -> None:
    assert Agreement.of([square(0), square(50)], [square(50), square(0)], SIZE) == Agreement(4, 4, 4)


def test_a_mask_that_differs_by_a_few_pixels_is_a_partner_but_not_identical() -> None:
    assert Agreement.of([square(0)], [square(0, without=5)], SIZE) == Agreement(2, 2, 0)
    assert Agreement.of([square(0)], [square(0, without=20)], SIZE) == Agreement(2, 0, 0)


def test_masks_that_only_one_side_has_miss_the_target() -> None:
    agreement = Agreement.of([square(0), square(50)], [square(0), square(60), square(120)], SIZE)
    row = agreement.row("some")
    assert agreement == Agreement(5, 2, 2)
    assert row.target is not None
    assert not row.target.is_met(row.figure)
    assert Agreement.of([square(0)], [], SIZE) == Agreement.of([], [square(0)], SIZE) == Agreement(1, 0, 0)


def test_where_nobody_finds_a_mask_nothing_is_claimed() -> None:
    row = Agreement.of([], [], SIZE).row("some")
    assert row.target is None
    assert "nothing to compare" in row.note


def test_boxes_are_the_same_if_each_is_there_as_often() -> None:
    boxes = np.array([[0, 0, 9, 9, 0.5], [5, 5, 8, 8, 0.9]], np.float32)
    assert in_both(boxes, boxes[::-1]) == 1
    assert in_both(boxes, boxes + np.float32(1e-3)) == 0
    assert in_both(boxes, boxes[[0, 0]]) == 0.5
    assert in_both(boxes[:0], boxes[:0]) == 0
