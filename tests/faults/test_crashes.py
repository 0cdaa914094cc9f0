"""Kill -9 at every point of a message's journey: nothing is lost, and what was recorded is not done again."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from tests.faults.invariants import judge
from tests.faults.kept_alive import kept_alive
from tests.faults.peers import BUCKET, Peers, Tally, open_peers, step

UNAVAILABLE = StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("point", "runs", "results", "calls"),
    [
        pytest.param("delivered", 1, 1, 1, id="C1-delivered"),
        pytest.param("parsed", 1, 1, 1, id="C2-parsed"),
        pytest.param("claimed", 1, 1, 1, id="C2-claimed"),
        pytest.param("run", 2, 1, 1, id="C4-run"),
        pytest.param("recorded", 1, 1, 1, id="C5-recorded"),
        pytest.param("published", 1, 2, 1, id="C7-published"),
        pytest.param("called_back", 1, 2, 2, id="C9-called-back"),
        pytest.param("marked", 1, 1, 1, id="C9-marked"),
    ],
)
def test_a_worker_killed_on_the_way_loses_nothing_and_repeats_no_more_than_it_must(
    peers: Peers, point: str, runs: int, results: int, calls: int
) -> None:
    sent = peers.send()
    dying = peers.worker(FAILPOINTS=f"{point}=kill")
    assert dying.ended(60) == -signal.SIGKILL

    peers.worker()
    if point == "delivered":
        peers.broker.advance(10)  # the subscription's own deadline: no extension was sent yet
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs, results, calls, effects=1, letters=0)
    judge(peers)


@pytest.mark.parametrize("point", ["run", "published", "called_back"])
def test_without_a_ledger_a_worker_killed_on_the_way_loses_nothing_and_runs_again(
    peers: Peers, point: str
) -> None:
    sent = peers.send()
    assert peers.worker(LEDGER="off", FAILPOINTS=f"{point}=kill").ended(60) == -signal.SIGKILL

    peers.worker(LEDGER="off")
    peers.until_settled()

    tally = peers.tally(sent)
    assert (tally.runs, tally.effects, tally.letters) == (2, 1, 0)
    judge(peers)


def test_without_a_ledger_a_message_that_always_fails_is_given_up_after_its_attempts(peers: Peers) -> None:
    sent = peers.send(step("work", how="transient"))
    peers.worker(LEDGER="off", MAX_ATTEMPTS="3")
    peers.until_settled()

    tally = peers.tally(sent)
    assert (tally.runs, tally.letters) == (3, 1)
    judge(peers)


def test_a_worker_killed_in_the_middle_of_a_pipeline_has_it_run_again(peers: Peers) -> None:
    sent = peers.send(step("work", how="kill", times=1))
    assert peers.worker().ended(60) == -signal.SIGKILL

    peers.worker()
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs=2, results=1, calls=1, effects=1, letters=0)
    judge(peers)


@dataclass(frozen=True)
class Bad:
    """A request that is given up."""

    change: Mapping[str, Any]
    runs: int = 0
    attempts: int = 1
    is_told: bool = True
    """Whether its backend is: not where the message may not name what it names."""


def fails(how: str) -> dict[str, Any]:
    return {"pipeline_definition": {"steps": [step("work", how=how)]}}


BAD = {
    "in-a-run": Bad(fails("permanent"), runs=1),
    "in-every-run": Bad(fails("transient"), runs=2, attempts=2),
    # These fail before anything is looked up.
    "unknown-step": Bad({"pipeline_definition": {"steps": [step("wrok")]}}),
    "malformed": Bad({"pipeline_definition": {"steps": "none"}}),
    "not-allowed": Bad({"image_url": f"gs://{BUCKET}/other/originals/a.jpg"}, is_told=False),
}
LEGS = {
    "failure_recorded": ("C12-recorded", 1, 1, 1),
    "dead_lettered": ("C13-dead-lettered", 2, 1, 1),
    "failure_published": ("C13-published", 1, 2, 1),
    "failure_called_back": ("C13-called-back", 1, 1, 2),
    "failure_marked": ("C13-marked", 1, 1, 1),
}
"""After which of them the worker is killed: how many dead letters, results and callbacks there are then."""
BRIEFLY = {"in-every-run", "malformed", "not-allowed"}
"""Of these the first leg and the last are enough."""


@pytest.mark.parametrize(
    ("why", "point"),
    [
        pytest.param(why, point, id=f"{name}-{why}")
        for why in BAD
        for point, (name, *_) in LEGS.items()
        if why not in BRIEFLY or point in ("dead_lettered", "failure_marked")
    ],
)
def test_a_worker_killed_while_it_gives_a_message_up_goes_on_where_it_was(
    peers: Peers, why: str, point: str
) -> None:
    bad = BAD[why]
    _, letters, results, calls = LEGS[point]
    sent = peers.send(**bad.change)
    dying = peers.worker(FAILPOINTS=f"{point}=kill", MAX_ATTEMPTS="2")
    peers.until(lambda: peers.cut_rests() or not dying.alive, "it to be killed", 60)
    assert dying.ended() == -signal.SIGKILL

    peers.worker(MAX_ATTEMPTS="2")
    peers.until_settled()

    told = int(bad.is_told)
    assert peers.tally(sent) == Tally(bad.runs, results, calls * told, effects=told, letters=letters)
    assert {letter.data for letter in peers.letters(sent)} == {sent.body}
    assert {letter.attempts for letter in peers.letters(sent)} == {bad.attempts}
    assert [effect.event for effect in peers.backend.effects] == ["error"] * told
    judge(peers)


def test_a_dead_letter_that_was_replayed_is_given_up_again_on_its_own_account(peers: Peers) -> None:
    first = peers.send(step("wrok"))
    peers.worker()
    peers.until_settled()
    again = peers.publish(json.loads(first.body), **{"mlworker-replay-count": "1"})
    peers.until_settled()

    assert [len(peers.letters(sent)) for sent in (first, again)] == [1, 1]
    judge(peers)


def test_a_backend_that_forgets_keys_hears_twice_in_the_window_before_the_marker(tmp_path: Path) -> None:
    with open_peers(tmp_path, deduplicates=False) as peers:
        sent = peers.send()
        assert peers.worker(FAILPOINTS="called_back=kill").ended(60) == -signal.SIGKILL
        peers.worker()
        peers.until_settled()

        assert peers.tally(sent) == Tally(runs=1, results=2, calls=2, effects=2, letters=0)
        judge(peers)


def test_c6_a_publish_whose_answer_is_lost_is_repeated_under_the_same_id(peers: Peers) -> None:
    peers.broker.fail("Publish", UNAVAILABLE, times=1, applied=True)
    sent = peers.send()
    peers.worker()
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs=1, results=2, calls=1, effects=1, letters=0)
    judge(peers)


def test_c6_a_worker_killed_while_its_publish_hangs_publishes_again(peers: Peers) -> None:
    fault = peers.broker.fail("Publish", delay=math.inf, applied=True, times=1)
    sent = peers.send()
    dying = peers.worker()
    peers.until(lambda: peers.results(sent), "the result to be published")
    dying.kill()
    fault.lift()
    peers.worker()
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs=1, results=2, calls=1, effects=1, letters=0)
    judge(peers)


@pytest.mark.parametrize("cut", ["reset", "close"])
def test_c8_a_callback_whose_answer_is_lost_is_repeated_with_the_same_key(peers: Peers, cut: str) -> None:
    peers.backend.fail(times=1, applied=True, cut=cut)
    sent = peers.send()
    peers.worker()
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs=1, results=1, calls=2, effects=1, letters=0)
    judge(peers)


def test_c8_a_worker_killed_while_its_callback_hangs_calls_again_with_the_same_key(peers: Peers) -> None:
    fault = peers.backend.fail(times=1, applied=True, delay=math.inf)
    sent = peers.send()
    dying = peers.worker(BACKEND_CALLBACK_TIMEOUT="60")
    peers.until(lambda: peers.backend.effects, "the callback to take effect")
    dying.kill()
    fault.lift()
    peers.worker()
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs=1, results=2, calls=2, effects=1, letters=0)
    judge(peers)


def test_c10_an_ack_whose_answer_is_lost_is_asked_for_again(peers: Peers) -> None:
    peers.broker.fail("Acknowledge", UNAVAILABLE, times=1, applied=True)
    sent = peers.send()
    worker = peers.worker()
    peers.until_settled()
    worker.until(lambda: len(peers.broker.calls("Acknowledge")) == 2, "the ack to be asked for again")

    assert peers.tally(sent) == Tally(runs=1, results=1, calls=1, effects=1, letters=0)
    judge(peers)


def test_c11_a_worker_killed_before_its_ack_arrives_leaves_only_the_ack_to_do(peers: Peers) -> None:
    lost = peers.broker.fail("Acknowledge", UNAVAILABLE)
    sent = peers.send()
    dying = peers.worker()
    peers.until(lambda: lost.hits, "an ack to be lost")
    dying.kill()
    lost.lift()
    peers.worker()
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs=1, results=1, calls=1, effects=1, letters=0)
    judge(peers)


@pytest.mark.parametrize("how", ["kill", "segfault"])
def test_m2_a_message_that_ends_every_worker_is_given_up_and_the_others_are_delivered(
    peers: Peers, how: str
) -> None:
    poison = peers.send(step("work", how=how))
    good = [peers.send(step("work", seconds=0.1)) for _ in range(6)]

    with kept_alive(peers, 1, MAX_ATTEMPTS="3"):
        peers.until_settled(90)

    assert [letter.attempts for letter in peers.letters(poison)] == [3]
    assert peers.tally(poison) == Tally(runs=3, results=1, calls=1, effects=1, letters=1)
    assert {peers.tally(sent).letters for sent in good} == {0}
    assert {peers.tally(sent).effects for sent in good} == {1}
    judge(peers)
