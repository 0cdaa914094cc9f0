"""The doctor's arithmetic beside the code it is about."""

from __future__ import annotations

from consumer.doctor import consistency
from consumer.serve import CLOSE_TIMEOUT
from consumer.worker import ABORT_HAND_BACK, HAND_BACK_TIMEOUT


def test_what_a_drain_may_take_at_its_end_is_what_the_doctor_leaves_for_it() -> None:
    worst = HAND_BACK_TIMEOUT + ABORT_HAND_BACK + CLOSE_TIMEOUT

    assert worst <= consistency._CLOSING <= worst + 2
