"""The soak's judge of repeats, mostly on made-up journals: what has a reason passes, nothing else does."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from consumer.local.pubsub import Deed, Line
from consumer.local.pubsub.messages import Message
from tests.faults.bucket import Stored
from tests.faults.chaos import Disturbance
from tests.faults.misbehaving import Exchange, Fault, Received
from tests.faults.peers import DEAD, RESULTS, WORK, Peers, step
from tests.faults.soak_evidence import Ended, Evidence, Witness
from tests.faults.soak_windows import Account, Leg, Why

A, B = 11, 22
"""Two workers."""
JOB, MESSAGE = "0123abcd", "7"


@dataclass
class Journals:
    """What broker, bucket and backend wrote down of one job, and what was done to the workers."""

    lines: list[Line] = field(default_factory=list)
    writes: list[Stored] = field(default_factory=list)
    calls: list[Exchange] = field(default_factory=list)
    refused: list[Received] = field(default_factory=list)
    disturbances: list[Disturbance] = field(default_factory=list)
    ended: dict[int, Ended] = field(default_factory=dict)
    stalls: list[tuple[float, float]] = field(default_factory=list)

    def claimed(self, pid: int, at: float) -> None:
        self._claim(pid, "running", at)

    def marked(self, pid: int, at: float) -> None:
        self._claim(pid, "done", at)

    def _claim(self, pid: int, state: str, at: float) -> None:
        body = {"owner": f"host/{pid}/f00", "message_id": MESSAGE, "state": state}
        self.writes.append(Stored(_name("claim"), 1, json.dumps(body).encode(), at=at))

    def gave_up(self, at: float, **metadata: str) -> None:
        self.writes.append(Stored(_name("failed"), 1, b"{}", metadata=metadata, at=at))

    def published(self, at: float) -> None:
        self._line(Deed.PUBLISHED, RESULTS, at, result_id=JOB)

    def dead_lettered(self, at: float, job: str = JOB) -> None:
        said = {"mlworker-source-message-id": MESSAGE, **({"mlworker-result-id": job} if job else {})}
        self._line(Deed.PUBLISHED, DEAD, at, **said)

    def called(self, at: float, fault: Fault | None = None) -> None:
        headers = {"idempotency-key": JOB}
        self.calls.append(Exchange(Received("POST", "/", {}, headers, b"", at), fault))

    def lease_ended(self, at: float, message: str = MESSAGE) -> None:
        self._line(Deed.EXPIRED, WORK, at, message)

    def refused_to_write(self, ending: str, at: float) -> None:
        path = f"/storage/v1/b/photos/o/{_name(ending)}"
        self.refused.append(Received("DELETE", path, {}, {}, b"", at))

    def killed(self, pid: int, at: float) -> None:
        self.ended[pid] = Ended(at, at + 0.05, -signal.SIGKILL)

    def frozen(self, pid: int, start: float, end: float) -> None:
        self.disturbances.append(Disturbance("SIGSTOP", start, end, pid))

    def told_to_end(self, pid: int, at: float) -> None:
        self.disturbances.append(Disturbance("SIGTERM", at, at, pid))

    def reasons(self) -> list[tuple[Leg, Why | None]]:
        return [(again.leg, why) for _, again, why in self._account().repeats()]

    def unexplained(self) -> list[str]:
        return list(self._account().unexplained())

    def _account(self) -> Account:
        return Evidence(
            self.lines, self.writes, self.calls, self.refused, self.disturbances, self.ended, self.stalls
        ).account()

    def _line(self, deed: Deed, where: str, at: float, message: str = "1", **attributes: str) -> None:
        said = Message(message, b"", attributes, datetime.now(UTC))
        self.lines.append(Line(deed, where, said, at))


def _name(ending: str) -> str:
    return f"acme/results/a-session/an-image/{JOB}.{ending}"


def called_twice_by_an_heir() -> Journals:
    """Worker A calls back at 10; B takes the job over and calls back at 15; no mark in between."""
    journals = Journals()
    journals.claimed(A, 9.0)
    journals.called(10.0)
    journals.claimed(B, 14.0)
    journals.called(15.0)
    journals.marked(B, 15.1)
    return journals


def test_what_is_said_once_needs_no_reason() -> None:
    journals = Journals()
    journals.claimed(A, 9.0)
    journals.published(9.5)
    journals.called(10.0)
    journals.marked(A, 10.1)

    assert journals.reasons() == []


def test_a_callback_that_comes_again_without_any_fault_is_reported_with_its_message() -> None:
    journals = called_twice_by_an_heir()

    [line] = journals.unexplained()

    assert f"callback {JOB} of message {MESSAGE}, first said by process {A}" in line
    assert "5.00 s later without a reason; it was marked 5.10 s after the first" in line


def test_a_worker_killed_between_answer_and_mark_is_a_reason() -> None:
    journals = called_twice_by_an_heir()
    journals.killed(A, 10.05)

    assert journals.reasons() == [(Leg.CALLBACK, Why.LOST)]
    assert journals.unexplained() == []


def test_another_workers_death_is_none() -> None:
    journals = called_twice_by_an_heir()
    journals.killed(B, 10.05)
    journals.killed(33, 10.05)

    assert journals.reasons() == [(Leg.CALLBACK, None)]


def test_a_death_after_the_repeat_is_none() -> None:
    journals = called_twice_by_an_heir()
    journals.killed(A, 15.5)

    assert journals.reasons() == [(Leg.CALLBACK, None)]


def test_a_death_after_the_mark_is_none() -> None:
    journals = Journals()
    journals.claimed(A, 9.0)
    journals.called(10.0)
    journals.marked(A, 10.1)
    journals.killed(A, 10.5)
    journals.claimed(B, 14.0)
    journals.called(15.0)

    assert journals.reasons() == [(Leg.CALLBACK, None)]


def test_an_answer_that_was_kept_back_is_a_reason_and_a_refusal_is_no_call() -> None:
    journals = Journals()
    journals.claimed(A, 9.0)
    journals.called(10.0, Fault(status=503))
    journals.called(10.5, Fault(cut="reset", applied=True))
    journals.called(11.0)

    assert journals.reasons() == [(Leg.CALLBACK, Why.UNHEARD)]


def test_a_backend_that_goes_away_while_it_answers_is_a_reason_and_one_that_goes_later_is_none() -> None:
    journals = called_twice_by_an_heir()
    journals.disturbances = [Disturbance("backend away", 12.0, 13.0)]
    assert journals.reasons() == [(Leg.CALLBACK, None)]

    journals.disturbances = [Disturbance("backend away", 10.1, 13.0)]
    assert journals.reasons() == [(Leg.CALLBACK, Why.UNHEARD)]


def test_a_worker_frozen_between_answer_and_mark_is_a_reason() -> None:
    journals = called_twice_by_an_heir()
    journals.frozen(A, 10.01, 16.0)

    assert journals.reasons() == [(Leg.CALLBACK, Why.STOOD_STILL)]


def test_a_worker_frozen_between_fence_and_call_is_a_reason_when_it_wakes_up() -> None:
    journals = Journals()
    journals.claimed(A, 9.0)
    journals.claimed(B, 13.0)
    journals.called(13.5)  # by B
    journals.marked(B, 13.6)
    journals.called(15.1)  # by A
    assert journals.reasons() == [(Leg.CALLBACK, None)]

    journals.frozen(A, 9.5, 15.0)
    assert journals.reasons() == [(Leg.CALLBACK, Why.STOOD_STILL)]


def test_a_worker_that_was_frozen_long_ago_is_none() -> None:
    journals = called_twice_by_an_heir()
    journals.frozen(A, 1.0, 6.0)
    journals.frozen(33, 9.0, 16.0)

    assert journals.reasons() == [(Leg.CALLBACK, None)]


def test_a_machine_that_let_nobody_run_is_a_reason() -> None:
    journals = called_twice_by_an_heir()
    journals.stalls = [(10.0, 13.0)]

    assert journals.reasons() == [(Leg.CALLBACK, Why.STOOD_STILL)]


def test_a_drain_is_none_unless_its_time_was_over_or_a_second_signal_came() -> None:
    journals = called_twice_by_an_heir()
    journals.told_to_end(A, 9.5)
    journals.ended[A] = Ended(10.2, 10.3, 0)
    assert journals.reasons() == [(Leg.CALLBACK, None)]

    journals.told_to_end(A, 10.1)
    assert journals.reasons() == [(Leg.CALLBACK, Why.LOST)]

    journals.disturbances = [Disturbance("SIGTERM", 0.2, 0.2, A)]
    assert journals.reasons() == [(Leg.CALLBACK, Why.LOST)]


def test_a_worker_that_ended_by_itself_excuses_nothing() -> None:
    journals = called_twice_by_an_heir()
    journals.ended[A] = Ended(10.05, 10.1, 1)

    assert journals.reasons() == [(Leg.CALLBACK, None)]


def test_a_lost_lease_is_a_reason_to_publish_again_but_none_to_call_back_again() -> None:
    journals = called_twice_by_an_heir()
    journals.published(9.5)
    journals.published(14.5)
    journals.lease_ended(9.8)  # because nobody kept it
    assert journals.reasons() == [(Leg.RESULT, None), (Leg.CALLBACK, None)]

    journals.disturbances = [Disturbance("leases end", 9.8, 9.8)]
    assert journals.reasons() == [(Leg.RESULT, Why.LEASE), (Leg.CALLBACK, None)]


def test_another_messages_lost_lease_is_none() -> None:
    journals = Journals()
    journals.claimed(A, 9.0)
    journals.published(9.5)
    journals.published(14.5)
    journals.lease_ended(9.8, "another message")
    journals.disturbances = [Disturbance("leases end", 9.8, 9.8)]

    assert journals.reasons() == [(Leg.RESULT, None)]


def test_a_worker_frozen_while_it_published_lost_its_lease_and_may_publish_again_itself() -> None:
    journals = Journals()
    journals.claimed(A, 9.0)
    journals.frozen(A, 9.4, 14.0)
    journals.lease_ended(13.0)
    journals.published(14.1)
    journals.published(14.9)

    assert journals.reasons() == [(Leg.RESULT, Why.LEASE)]


def test_a_result_whose_publish_was_answered_with_an_error_may_come_again() -> None:
    journals = Journals()
    journals.claimed(A, 9.0)
    journals.published(10.0)
    journals.published(10.5)
    journals.disturbances = [Disturbance("results refused", 9.9, 10.2)]

    assert journals.reasons() == [(Leg.RESULT, Why.UNHEARD)]


def test_a_mark_that_the_bucket_refuses_is_a_reason_only_if_another_takes_the_claim_over() -> None:
    journals = called_twice_by_an_heir()
    journals.refused_to_write("claim", 10.1)
    assert journals.reasons() == [(Leg.CALLBACK, Why.UNMARKED)]

    journals = Journals()
    journals.claimed(A, 9.0)
    journals.called(10.0)
    journals.refused_to_write("claim", 10.1)
    journals.called(15.0)
    assert journals.reasons() == [(Leg.CALLBACK, None)]


def test_a_dead_letter_comes_again_when_its_worker_was_lost_before_the_leg_was_marked() -> None:
    journals = Journals()
    journals.claimed(A, 9.0)
    journals.dead_lettered(10.0)
    journals.killed(A, 10.05)
    journals.claimed(B, 14.0)
    journals.dead_lettered(15.0)
    assert journals.reasons() == [(Leg.LETTER, Why.LOST)]

    journals.gave_up(10.02, legs="dead-lettered")
    assert journals.reasons() == [(Leg.LETTER, None)]


def test_a_message_nobody_understands_has_no_claim_and_any_worker_may_have_had_it() -> None:
    journals = Journals()
    journals.dead_lettered(10.0, job="")
    journals.dead_lettered(15.0, job="")
    assert journals.reasons() == [(Leg.LETTER, None)]

    journals.killed(B, 10.05)
    assert journals.reasons() == [(Leg.LETTER, Why.LOST)]


@pytest.mark.parametrize(
    ("point", "how", "legs"),
    [("called_back", {}, [Leg.CALLBACK, Leg.RESULT]), ("dead_lettered", {"how": "permanent"}, [Leg.LETTER])],
)
def test_the_account_of_a_real_crash_is_read_as_it_happened(
    peers: Peers, point: str, how: dict[str, Any], legs: list[Leg]
) -> None:
    peers.send(step("work", **how))
    dying = peers.worker(FAILPOINTS=f"{point}=kill")
    witness = Witness(peers.workers)

    def is_seen_dead() -> bool:
        witness.look()
        return dying.pid in witness.ended

    peers.until(is_seen_dead, "its end", 60)
    peers.worker()
    peers.until_settled()

    evidence = Evidence(
        peers.journal.lines(), peers.bucket.writes, peers.backend.exchanges, [], [], witness.ended, []
    )
    assert sorted(evidence.account().counts()) == [(leg, Why.LOST) for leg in legs]
    assert list(evidence.account().unexplained()) == []
    assert len(list(replace(evidence, ended={}).account().unexplained())) == len(legs)
