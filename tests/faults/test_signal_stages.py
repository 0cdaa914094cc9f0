"""SIGTERM while something hangs at each stage of a message: the worker ends in time, and another goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest

from tests.faults.invariants import judge
from tests.faults.peers import DEAD, RESULTS, WORK, Peers, Sent, step
from tests.faults.worker import Worker

STAGES = ["fetch", "record", "publish", "dead letter"]
MODES = ["finish", "abort"]


def hang(peers: Peers, stage: str) -> Callable[[], int]:
    """Let one stage hang until it is healed; return what tells how often it was begun."""
    match stage:
        case "fetch":
            fault = peers.bucket.fail("media", "*.jpg", delay=math.inf)
            return lambda: fault.hits
        case "record":
            fault = peers.bucket.fail("upload", "*.json", delay=math.inf)
            return lambda: fault.hits
        case _:
            topic = RESULTS if stage == "publish" else DEAD
            silent = peers.broker.fail("Publish", delay=math.inf, only=lambda request: request.topic == topic)
            return lambda: silent.hits


def told_to_end(worker: Worker) -> None:
    """Tell it, and expect it to end well, with all that its drain may take here."""
    told = time.monotonic()
    worker.terminate()
    assert worker.ended(20) == 0
    assert time.monotonic() - told < 12


def delivered_by_another(peers: Peers, sent: Sent, letters: int = 0) -> None:
    peers.worker(MAX_ATTEMPTS="1").until_ready()
    peers.until_settled()
    tally = peers.tally(sent)
    assert (tally.effects, tally.letters) == (1, letters)
    judge(peers)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stage", STAGES)
def test_s1_a_worker_told_to_end_while_a_stage_hangs_ends_in_time_and_uses_up_no_attempt(
    peers: Peers, stage: str, mode: str
) -> None:
    hanging = hang(peers, stage)
    worker = peers.worker(DRAIN_MODE=mode, DRAIN_TIMEOUT="1", MAX_ATTEMPTS="1").until_ready()
    sent = peers.send(step("work", how="permanent" if stage == "dead letter" else ""))
    peers.until(hanging, f"the {stage} to hang")
    told_to_end(worker)
    assert not peers.acked(sent)
    peers.bucket.heal()
    peers.broker.heal()

    delivered_by_another(peers, sent, letters=1 if stage == "dead letter" else 0)
    # What hung before it was recorded is run again; nothing else is.
    assert peers.tally(sent).runs <= (2 if stage == "record" else 1)


@pytest.mark.parametrize("mode", MODES)
def test_s1_a_worker_told_to_end_while_it_waits_for_anothers_claim_ends_at_once(
    peers: Peers, mode: str
) -> None:
    # A claim is good for half a lease: longer than another worker takes to start while its owner is frozen.
    gate, lease = peers.gate(), "30"
    owner = peers.worker(LEASE_SECONDS=lease).until_ready()
    sent = peers.send(step("work", gate=str(gate)))
    peers.until_running(sent)
    owner.freeze()  # so that what comes again comes to the other
    peers.broker.end_leases(WORK)
    waiting = peers.worker(DRAIN_MODE=mode, LEASE_SECONDS=lease).until_ready()
    peers.until(lambda: peers.deliveries(sent) >= 2, "it to be delivered to the other")
    peers.until(lambda: peers.bucket.asked("media", "*.claim"), "the claim to be looked at")
    owner.thaw()
    told_to_end(waiting)
    gate.touch()

    peers.until_settled()
    tally = peers.tally(sent)
    assert (tally.runs, tally.effects, tally.letters) == (1, 1, 0)
    assert owner.alive
    judge(peers)
