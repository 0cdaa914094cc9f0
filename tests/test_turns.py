"""Whose turn it is: rules that need no broker."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.broker import Delivery
from consumer.broker.leases import Lease
from consumer.resting import Resting
from consumer.routes import Routes, parse_routes
from consumer.turns import InHand, Turn, Turns, tenant_of

LOOK = {"steps": [{"type": "step", "name": "look"}]}


def message(tenant: str, number: int = 0, attempt: int | None = None) -> Delivery:
    name = f"{tenant}-{number}"
    return Delivery(name, name, b"", {"tenant": tenant}, datetime.now(UTC), attempt)


@dataclass
class Day:
    """Turns on a clock of their own, and who has a slot."""

    slots: int = 5
    limit: int | None = None
    now: float = 100.0
    running: list[Turn] = field(default_factory=list)
    resting: list[tuple[Delivery, int]] = field(default_factory=list)
    begun: list[InHand] = field(default_factory=list)
    bytes_of: Counter[str] = field(default_factory=Counter)
    """Bytes of each tenant's photos."""
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.turns = Turns(
            self.slots,
            self.limit,
            lambda it: it.attributes["tenant"],
            lambda tenant: self.bytes_of[str(tenant)],
            lambda: self.now,
        )

    def arrive(self, tenant: str, count: int = 1, attempt: int | None = None) -> int:
        """Sort new messages; return how many of them may begin."""
        found = self.turns.sort([message(tenant, next(self.numbers), attempt) for _ in range(count)])
        self.running += [turn for _, turn in found.begin]
        for held in found.keep:
            held.lease.append(
                Lease(held.delivery.ack_id, lambda: self.now, self.now + 120, 0.0, confirmed=True)
            )
        self.resting += [(it, seconds) for seconds, these in found.rest.items() for it in these]
        return len(found.begin)

    def end(self, tenant: str) -> list[str]:
        """End one run of a tenant; return whose message begins in its place."""
        turn = next(turn for turn in self.running if turn.tenant == tenant)
        self.running.remove(turn)
        self.turns.end(turn)
        begun = list(self.turns.whose_turn())
        self.running += [following for _, following in begun]
        self.begun += [held for held, _ in begun]
        back = {held.delivery.ack_id for held, _ in begun}
        self.resting = [(it, seconds) for it, seconds in self.resting if it.ack_id not in back]
        return [str(held.tenant) for held, _ in begun]

    def confirm(self) -> None:
        """Let the broker say that what was handed back rests."""
        self.turns.rests([it.ack_id for it, _ in self.resting])

    def has(self) -> Counter[str]:
        return Counter(str(turn.tenant) for turn in self.running)


def test_the_last_slot_is_for_a_tenant_that_has_none() -> None:
    day = Day()

    assert day.arrive("a", 10) == 4
    assert day.arrive("b") == 1
    assert day.turns.free == 0


@pytest.mark.parametrize(("slots", "for_one"), [(1, 1), (2, 2), (3, 2), (9, 8)])
def test_one_or_two_slots_are_all_for_one_tenant(slots: int, for_one: int) -> None:
    assert Day(slots=slots).arrive("a", 20) == for_one


def test_a_limit_says_exactly_how_many_slots_a_tenant_may_have() -> None:
    day = Day(slots=4, limit=2)

    assert day.arrive("a", 5) == 2
    assert day.arrive("b", 5) == 2
    assert Day(slots=4, limit=4).arrive("a", 5) == 4


def test_with_many_backlogs_a_slot_stays_free_for_the_next_newcomer() -> None:
    day = Day()
    day.arrive("a", 6)
    day.arrive("b", 2)

    assert day.end("a") == []  # one free slot, and both have some
    assert day.end("a") == ["b"]  # two: the one with fewer is first
    assert day.arrive("c") == 1
    assert day.has() == {"a": 2, "b": 2, "c": 1}


def test_nothing_is_looked_for_while_the_queue_moves() -> None:
    day = Day()
    assert day.turns.wanted() == 5
    day.arrive("a", 5)
    day.now += 0.9
    assert day.turns.wanted() == 0  # none has ended yet
    assert day.end("a") == ["a"]
    assert day.turns.wanted() == 1
    day.arrive("a")
    day.now += 0.05
    assert day.turns.wanted() == 0  # a run ends every quarter of a second, as far as is known
    day.now += 2
    assert day.turns.wanted() == 32  # and now none does
    assert not day.resting


def test_behind_a_queue_that_moves_but_leaves_slots_idle_something_is_looked_for_after_a_while() -> None:
    day = Day(limit=2)
    day.arrive("a", 3)
    day.now += 0.4
    assert day.turns.wanted() == 0

    day.now += 0.2
    assert day.turns.wanted() == 32


def test_behind_a_run_that_goes_on_for_two_seconds_something_is_looked_for_at_once() -> None:
    day = Day()
    day.arrive("a", 4)
    day.now += 2
    day.arrive("a")
    day.now += 0.03

    assert day.turns.wanted() == 32


@pytest.mark.parametrize(("megabytes", "asked"), [(20, 32), (10, 0)])
def test_behind_large_photos_something_is_looked_for_at_once(megabytes: int, asked: int) -> None:
    day = Day()
    day.arrive("a", 5)
    day.bytes_of["a"] = megabytes * 1_000_000
    assert day.turns.wanted() == 0
    day.now += 0.03

    assert day.turns.wanted() == asked


def test_behind_what_stands_more_and_more_is_looked_at() -> None:
    day = Day()
    assert day.turns.wanted() == 5
    day.arrive("a", 5)
    day.now += 3

    asked = [day.turns.wanted() for _ in range(8)]

    assert asked == [32, 128, 128, 128, 128, 128, 128, 128]
    day.arrive("b")
    assert day.turns.wanted() == 0  # nobody could begin


def test_what_begins_soon_stays_in_hand_and_the_rest_comes_again_after_half_its_wait() -> None:
    day = with_a_backlog()

    assert day.turns.in_hand == 1
    seconds = [rest for _, rest in day.resting]
    assert len(seconds) == 99
    assert seconds[0] == 2  # its turn is in 5 s
    assert seconds[-1] == 64  # and the last one's in 250
    assert seconds == sorted(seconds)
    assert len(set(seconds)) <= 8


def with_runs_of(seconds: float) -> Day:
    """All slots that one tenant may have are taken, and how long its runs take is known."""
    day = Day()
    day.arrive("a", 4)
    day.now += seconds
    for _ in range(4):
        day.end("a")
        day.arrive("a")
    return day


def with_a_backlog() -> Day:
    """Runs of 10 s, one message in hand, and 99 that rest."""
    day = with_runs_of(10)
    day.arrive("a", 100, attempt=20)
    return day


def test_a_slot_that_falls_free_takes_back_what_rests_for_longest() -> None:
    day = with_a_backlog()
    last = day.resting[-1][0]
    day.confirm()

    assert day.end("a") + day.end("a") == ["a", "a"]
    held, back = day.begun[-2:]
    assert held.lease
    assert held.leased_until is None
    assert back.delivery is last
    assert back.leased_until == day.now + 64
    assert day.has() == {"a": 4}


def test_what_the_broker_has_not_let_rest_yet_is_not_taken_back() -> None:
    day = with_a_backlog()

    assert day.end("a") == ["a"]
    assert day.end("a") == []


def test_what_rests_is_left_in_peace_if_that_is_asked_for() -> None:
    day = with_a_backlog()
    day.confirm()
    day.end("a")
    day.turns.end(day.running.pop())

    assert not list(day.turns.whose_turn(take_back=False))
    assert len(list(day.turns.whose_turn())) == 1


def test_what_comes_again_in_a_moment_is_not_taken_back() -> None:
    day = with_a_backlog()
    day.confirm()
    day.end("a")

    day.now += 63.4
    assert day.end("a") == ["a"]
    day.now += 0.2
    assert day.end("a") == []


def test_what_rests_leaves_the_last_slot_to_a_newcomer() -> None:
    day = with_a_backlog()
    day.confirm()
    assert day.arrive("b", 2) == 1

    assert day.end("b") == ["b"]  # in hand, and its tenant had none
    assert day.end("b") == []
    assert day.has() == {"a": 4}


def test_a_large_message_is_not_kept_while_it_rests() -> None:
    resting = Resting(lambda: 0.0)
    large = Delivery("large", "large", b"x" * 70_000, {}, datetime.now(UTC), None)
    resting.add("a", large, 60)
    resting.confirm(["large"])

    assert resting.total() == 1
    assert resting.take_back("a") is None


def test_short_runs_keep_enough_in_hand() -> None:
    day = with_runs_of(0.4)

    day.arrive("a", 100)

    assert day.turns.in_hand == 11
    assert min(rest for _, rest in day.resting) == 1


def test_what_lies_deeper_than_two_hundred_messages_is_left_to_others() -> None:
    day = Day()
    day.arrive("a", 5)
    day.now += 30

    while wanted := day.turns.wanted():
        day.arrive("a", wanted)
    assert len(day.resting) == 200

    day.now += 600
    assert day.turns.wanted() > 0


def test_a_message_rests_longer_the_more_often_it_came() -> None:
    rests = []
    for attempt in (None, 1, 2, 10, 20, 99):
        day = Day()
        day.arrive("a", 4)
        day.now += 5000
        day.arrive("a", 1, attempt)
        rests += [rest for _, rest in day.resting]
    assert rests == [16, 16, 32, 256, 512, 512]


def test_what_will_not_begin_soon_after_all_goes_back() -> None:
    day = Day()
    day.arrive("a", 4)
    day.now += 0.2
    day.arrive("a", 5)
    assert (day.turns.in_hand, list(day.turns.overdue())) == (5, [])

    day.now += 100
    back = list(day.turns.overdue())

    assert [seconds for _, seconds in back] == [8, 16, 16, 16, 16]
    assert day.turns.in_hand == 0


def test_one_run_that_hangs_says_nothing_about_the_others() -> None:
    day = Day()
    day.arrive("a", 4)
    day.now += 1
    for _ in range(3):
        day.end("a")
        day.arrive("a")
    day.now += 3600
    for _ in range(3):
        day.end("a")
        day.arrive("a")
    for _ in range(30):
        day.now += 1
        for _ in range(3):
            day.end("a")
            day.arrive("a")

    day.arrive("a", 2)

    assert day.turns.in_hand == 2


@given(
    slots=st.integers(1, 9),
    limit=st.none() | st.integers(1, 9),
    days=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12), st.floats(0, 30)), max_size=40),
)
def test_whatever_comes_slots_and_shares_are_kept_and_nothing_is_lost(
    slots: int, limit: int | None, days: list[tuple[str, int, float]]
) -> None:
    day = Day(slots=slots, limit=limit)
    arrived = ended = overdue = 0
    for tenant, count, seconds in days:
        day.now += seconds
        if count == 0 and day.has()[tenant]:
            day.end(tenant)
            ended += 1
        overdue += len(list(day.turns.overdue()))
        day.arrive(tenant, count)
        day.confirm()
        arrived += count
        has = day.has()
        assert has.total() == slots - day.turns.free <= slots
        if limit is not None:
            assert max(has.values(), default=0) <= limit
        elif slots >= 3:
            assert len(has) > 1 or has.total() < slots
        assert day.turns.in_hand <= 3 * slots
        assert arrived == ended + has.total() + day.turns.in_hand + overdue + len(day.resting)
        # Nothing waits in hand that could begin.
        assert not list(day.turns.whose_turn())


def test_whose_a_message_is_can_be_told_before_it_is_read() -> None:
    routes = parse_routes(
        {"routes": [{"bucket": "photos", "prefix": "{tenant_id}/inbox/", "pipeline": LOOK}]}, "routes"
    )

    def of(data: object, routes: Routes = routes, **attributes: str) -> str | None:
        body = data if isinstance(data, bytes) else orjson.dumps(data)
        return tenant_of(Delivery("1", "1", body, attributes, datetime.now(UTC), None), routes)

    assert of({"tenant_id": "acme"}) == "acme"
    assert of({}, bucketId="photos", objectId="acme/inbox/1.jpg") == "acme"
    for odd in ({}, [1], b"{", {"tenant_id": 7}, {"tenant_id": "acme", "x": "y" * 300_000}):
        assert of(odd) is None
    assert of({"tenant_id": "acme"}, bucketId="photos", objectId="elsewhere/1.jpg") is None
