"""The brake, on a clock that the test turns."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from consumer.brake import WINDOW, Brake


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def brake(clock: Clock) -> Brake:
    return Brake(20, clock)


def note(brake: Brake, code: str, times: int) -> None:
    for _ in range(times):
        brake.note(code)


def test_twenty_dead_letters_are_not_enough(brake: Brake) -> None:
    note(brake, "invalid_pipeline", 20)

    assert brake.why == ""


def test_more_than_twenty_for_one_reason_stop_pulling_and_say_why(brake: Brake) -> None:
    note(brake, "invalid_pipeline", 21)
    note(brake, "", 20)

    assert brake.why == "21 of 41 messages were given up with invalid_pipeline within 300 s"


def test_as_many_good_ones_keep_it_open(brake: Brake) -> None:
    note(brake, "invalid_pipeline", 40)
    note(brake, "", 40)

    assert brake.why == ""


def test_many_reasons_are_many_bad_messages_and_no_slip_of_ours(brake: Brake) -> None:
    for code in ("invalid_pipeline", "object_missing", "not_allowed"):
        note(brake, code, 30)

    assert brake.why == ""


def test_what_is_not_even_a_request_never_stops_the_queue(brake: Brake) -> None:
    note(brake, "malformed_message", 500)

    assert brake.why == ""


def test_it_releases_by_itself_and_lets_a_few_more_through(brake: Brake, clock: Clock) -> None:
    note(brake, "invalid_pipeline", 30)
    assert brake.why

    clock.now = WINDOW + 1
    assert brake.why == ""

    note(brake, "invalid_pipeline", 20)
    assert brake.why == ""
    note(brake, "invalid_pipeline", 1)
    assert brake.why


def test_it_can_be_switched_off(clock: Clock) -> None:
    brake = Brake(0, clock)
    note(brake, "invalid_pipeline", 1000)

    assert brake.why == ""
