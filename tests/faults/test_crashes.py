"""Kill -9 at every point of a message's journey: nothing is lost, and what was recorded is not done again."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import pytest
from grpc import StatusCode

from tests.faults.invariants import judge
from tests.faults.kept_alive import kept_alive
from tests.faults.peers import Peers, Tally, open_peers, step

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


@pytest.mark.parametrize(
    ("point", "letters", "results", "calls"),
    [
        pytest.param("failure_recorded", 1, 1, 1, id="C12-recorded"),
        pytest.param("dead_lettered", 2, 1, 1, id="C13-dead-lettered"),
        pytest.param("failure_published", 1, 2, 1, id="C13-published"),
        pytest.param("failure_called_back", 1, 1, 2, id="C13-called-back"),
        pytest.param("failure_marked", 1, 1, 1, id="C13-marked"),
    ],
)
def test_a_worker_killed_while_it_gives_a_message_up_goes_on_where_it_was(
    peers: Peers, point: str, letters: int, results: int, calls: int
) -> None:
    sent = peers.send(step("work", how="permanent"))
    assert peers.worker(FAILPOINTS=f"{point}=kill").ended(60) == -signal.SIGKILL

    peers.worker()
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs=1, results=results, calls=calls, effects=1, letters=letters)
    assert {letter.data for letter in peers.letters(sent)} == {sent.body}
    assert [effect.event for effect in peers.backend.effects] == ["error"]
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
