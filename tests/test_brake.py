"""The brake, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from consumer.brake import WINDOW, Brake
from consumer.errors import MalformedMessage
from consumer.outcomes import failure_of
from contracts.notification import StorageNotification
from tests.test_decode import DECODER, NAMED, NOTIFICATION, delivery


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


def unreadable(read: Callable[[], object]) -> str:
    with pytest.raises(MalformedMessage) as refused:
        read()
    return failure_of(refused.value).code


def test_messages_that_only_a_slip_of_ours_makes_unreadable_stop_pulling() -> None:
    """Another presets file, a limit that is too small, a route that takes a wrong folder for the tenant's."""
    named = {**NAMED, "pipeline": "OURS_WAS_LOST"}
    photo = StorageNotification.model_validate({**NOTIFICATION, "objectId": "results of may/originals/a.jpg"})
    codes = [
        unreadable(lambda: DECODER.decode(delivery(named))),
        unreadable(lambda: DECODER.decode(delivery(b" " * (DECODER.max_bytes + 1)))),
        unreadable(lambda: DECODER.job_of(photo, {}, delivery())),
    ]

    assert codes == ["unknown_preset", "message_too_large", "no_tenant"]
    for code in codes:
        engaged = Brake(20)
        note(engaged, code, 21)
        assert engaged.why


def test_a_message_of_an_unknown_preset_that_is_no_request_either_is_malformed() -> None:
    assert unreadable(lambda: DECODER.decode(delivery({"pipeline": "OURS_WAS_LOST"}))) == "malformed_message"


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
