"""Kill -9 at every point of a message's journey: nothing is lost, and what was recorded is not done again."""

from __future__ import annotations

import signal

import pytest

from tests.faults.invariants import judge
from tests.faults.peers import Peers, Tally, step


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


def test_a_worker_killed_in_the_middle_of_a_pipeline_has_it_run_again(peers: Peers) -> None:
    sent = peers.send(step("work", how="kill", times=1))
    assert peers.worker().ended(60) == -signal.SIGKILL

    peers.worker()
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs=2, results=1, calls=1, effects=1, letters=0)
    judge(peers)
