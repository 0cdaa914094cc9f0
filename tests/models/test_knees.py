"""How large a batch is worth having, learnt from how long batches take."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from consumer.models.knees import Knees


def sizes(seconds: Callable[[int], float], batches: int, allowed: int = 8, waiting: int = 100) -> list[int]:
    """The sizes of batches that take so long."""
    knees, chosen = Knees(), []
    for _ in range(batches):
        size = knees.most("k", allowed, waiting)
        knees.note("k", size, allowed, seconds(size))
        chosen.append(size)
    return chosen


def test_where_eight_take_as_long_as_eight_times_one_batches_become_small() -> None:
    chosen = sizes(lambda size: 0.034 * size, 40)

    assert chosen[:5] == [8, 8, 4, 4, 4]
    assert set(chosen[12:]) == {1}


@pytest.mark.parametrize("fixed", [0.03, 0.3])
def test_where_a_batch_costs_something_itself_they_stay_large_and_tries_become_seldom(fixed: float) -> None:
    chosen = sizes(lambda size: fixed + 0.03 * size, 1000)

    assert chosen[-1] == 8
    assert Counter(chosen)[4] <= 12
    assert set(chosen) == {8, 4}


def test_noise_does_not_make_batches_small_that_gain() -> None:
    chance = random.Random(1)

    chosen = sizes(lambda size: (0.1 + 0.05 * size) * chance.uniform(0.9, 1.2), 2000)

    assert chosen[-1] == 8


def test_nothing_is_tried_with_quick_batches_or_where_few_items_wait() -> None:
    assert set(sizes(lambda size: 0.001 * size, 500)) == {8}
    assert set(sizes(lambda size: 0.1 * size, 500, waiting=7)) == {8}
    assert set(sizes(lambda size: 0.1 * size, 500, allowed=1)) == {1}


def test_what_is_learnt_while_memory_is_short_is_not_kept_to_afterwards() -> None:
    knees = Knees()
    for _ in range(50):
        size = knees.most("k", 4, 100)
        knees.note("k", size, 4, 0.03 * size)

    assert knees.most("k", 4, 100) == 1
    assert knees.most("k", 8, 100) == 8


def test_no_more_is_remembered_than_is_of_use() -> None:
    knees = Knees()
    for number in range(5000):
        knees.note(number, 8, 8, 0.1)

    assert len(knees._known) == 1000
