"""Workers told to end, frozen, restarted in turn: nothing is lost, and no attempt is used up."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path

import pytest

from consumer.local.pubsub import Deed
from tests.faults.invariants import judge
from tests.faults.peers import ONCE, WORK, Peers, Sent, lasts, open_peers, step


def restart_broker_later(peers: Peers) -> int:
    port = int(peers.broker.address.rsplit(":", 1)[1])
    peers.broker.stop()
    return port


def leased_after(peers: Peers, moment: float) -> list[str]:
    lines = peers.journal.lines(Deed.LEASED, where=WORK)
    return [line.message.id for line in lines if line.at > moment]


def until_calling(peers: Peers, sent: Sent) -> None:
    peers.until(lambda: peers.backend.received(sent.image_id), "the callback to be made")


# ------------------------------------------------------------------------------- SIGTERM


@pytest.mark.alone
@pytest.mark.parametrize("mode", ["finish", "abort"])
def test_s1_an_idle_worker_ends_at_once(peers: Peers, mode: str) -> None:
    worker = peers.worker(DRAIN_MODE=mode).until_ready()
    since = time.monotonic()
    worker.terminate()

    assert worker.ended(10) == 0
    assert time.monotonic() - since < 3


@pytest.mark.parametrize("mode", ["finish", "abort"])
def test_s1_a_worker_that_still_starts_ends_at_once_and_has_pulled_nothing(
    peers: Peers, control: Path, mode: str
) -> None:
    """Its device still warms up, which on a GPU may take a minute."""
    sent = peers.send()
    control.write_text("hang")
    worker = peers.worker(DRAIN_MODE=mode, DEVICES=f"simulated:control={control}")
    worker.until_log("starting")
    worker.terminate()

    assert worker.ended(10) == 0
    assert peers.broker.calls("Pull") == []
    peers.worker()
    peers.until_settled()
    assert peers.tally(sent) == ONCE
    judge(peers)


def test_s1_work_in_flight_is_finished_and_nothing_new_is_begun(peers: Peers) -> None:
    worker = peers.worker().until_ready()
    sent = peers.send(step("work", seconds=1.5))
    peers.until_running(sent)
    worker.terminate()
    told = time.monotonic()
    lasts(0.2)
    later = peers.send()

    assert worker.ended(10) == 0
    assert peers.acked(sent)
    assert leased_after(peers, told + 0.2) == []
    peers.worker()
    peers.until_settled()
    assert (peers.tally(sent), peers.tally(later)) == (ONCE, ONCE)
    judge(peers)


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["work", "work_in_thread"])
def test_s1_where_work_is_aborted_it_is_handed_back_at_once_and_uses_up_no_attempt(
    peers: Peers, kind: str
) -> None:
    gate = peers.gate()
    worker = peers.worker(DRAIN_MODE="abort", MAX_ATTEMPTS="1").until_ready()
    sent = peers.send(step(kind, gate=str(gate)))
    peers.until_running(sent)
    other = peers.worker(MAX_ATTEMPTS="1").until_ready()
    told = time.monotonic()
    worker.terminate()
    peers.until_running(sent, 2)

    assert time.monotonic() - told < 5
    assert worker.ended(12) == 0
    assert time.monotonic() - told < 10
    gate.touch()
    peers.until_settled()
    assert other.alive
    assert peers.tally(sent).letters == 0
    assert peers.tally(sent).effects == 1
    judge(peers)


@pytest.mark.parametrize("mode", ["finish", "abort"])
def test_s1_a_result_that_is_being_delivered_is_delivered_and_acked(peers: Peers, mode: str) -> None:
    peers.backend.misbehave(delay=1.0, times=1)
    worker = peers.worker(DRAIN_MODE=mode).until_ready()
    sent = peers.send()
    until_calling(peers, sent)
    worker.terminate()

    assert worker.ended(10) == 0
    assert peers.acked(sent)
    assert peers.tally(sent) == ONCE
    judge(peers)


def test_s1_what_does_not_end_in_time_is_handed_back(peers: Peers) -> None:
    gate = peers.gate()
    worker = peers.worker(DRAIN_TIMEOUT="1", MAX_ATTEMPTS="1").until_ready()
    sent = peers.send(step("work", gate=str(gate)))
    peers.until_running(sent)
    worker.terminate()

    assert worker.ended(12) == 0
    gate.touch()
    peers.worker(MAX_ATTEMPTS="1")
    peers.until_settled()
    assert peers.tally(sent).letters == 0
    assert peers.tally(sent).effects == 1
    judge(peers)


@pytest.mark.parametrize("mode", ["finish", "abort"])
def test_s1_a_worker_that_waits_for_a_backend_ends_in_time_and_its_result_is_kept(
    peers: Peers, mode: str
) -> None:
    peers.backend.stop()
    worker = peers.worker(DRAIN_MODE=mode, DRAIN_TIMEOUT="2").until_ready()
    sent = peers.send()
    peers.until(lambda: peers.results(sent), "the result to be published")
    lasts(0.5)
    told = time.monotonic()
    worker.terminate()

    assert worker.ended(15) == 0
    assert time.monotonic() - told < 10
    peers.backend.start()
    peers.worker()
    peers.until_settled()
    assert peers.tally(sent).runs == 1
    assert peers.tally(sent).effects == 1
    judge(peers)


@pytest.mark.parametrize("mode", ["finish", "abort"])
def test_s1_a_worker_whose_broker_is_away_ends_in_time(peers: Peers, mode: str) -> None:
    gate = peers.gate()
    worker = peers.worker(DRAIN_MODE=mode, DRAIN_TIMEOUT="2").until_ready()
    sent = peers.send(step("work", gate=str(gate)))
    peers.until_running(sent)
    port = restart_broker_later(peers)
    told = time.monotonic()
    worker.terminate()

    assert worker.ended(25) == 0
    assert time.monotonic() - told < 15
    gate.touch()
    peers.broker.start(port)
    peers.worker()
    peers.until_settled()
    assert peers.tally(sent).effects == 1
    judge(peers)


def test_s1_a_second_signal_ends_it_at_once(peers: Peers) -> None:
    worker = peers.worker().until_ready()
    sent = peers.send(step("work", gate=str(peers.gate())))
    peers.until_running(sent)
    worker.terminate()
    worker.until_log("stopping")
    worker.terminate()

    assert worker.ended(5) == 1


def test_s2_a_kill_soon_after_the_signal_finds_everything_handed_back(peers: Peers) -> None:
    gate = peers.gate()
    worker = peers.worker(DRAIN_MODE="abort").until_ready()
    sent = [peers.send(step("work_in_thread", gate=str(gate))) for _ in range(2)]
    for each in sent:
        peers.until_running(each)
    worker.terminate()
    lasts(1.5)
    worker.kill()
    assert {line.message.id for line in peers.journal.lines(Deed.NACKED, where=WORK)} == {
        each.message_id for each in sent
    }
    gate.touch()
    peers.worker()
    peers.until_settled()
    assert [peers.tally(each).effects for each in sent] == [1, 1]
    judge(peers)


# ------------------------------------------------------------------------------- frozen


@pytest.mark.race
@pytest.mark.parametrize("frozen", [1.0, 6.0], ids=["shorter-than-the-lease", "longer-than-the-lease"])
def test_s3_a_worker_frozen_in_the_middle_of_a_run_tells_nobody_what_another_has_told(
    tmp_path: Path, frozen: float
) -> None:
    with open_peers(tmp_path, deduplicates=False) as peers:
        worker = peers.worker().until_ready()
        sent = peers.send(step("work", seconds=0.8))
        peers.until_running(sent)
        worker.freeze()
        peers.worker().until_ready()
        lasts(frozen)
        worker.thaw()
        peers.until_settled()
        lasts(1.5)  # for whatever the thawed one may still do

        assert peers.tally(sent).effects == 1
        assert peers.tally(sent).runs <= 2
        assert peers.tally(sent).letters == 0
        judge(peers)


def test_s3_a_worker_that_was_only_frozen_spares_its_heir_the_run_by_recording_its_result(
    peers: Peers,
) -> None:
    gate, others = peers.gate(), peers.gate("others")
    # With a second slot its pull would be open while it is frozen, and might be given the other message.
    worker = peers.worker(SLOTS="1").until_ready()
    sent = peers.send(step("work", gate=str(gate)))
    peers.until_running(sent)
    worker.freeze()
    heir = peers.worker().until_ready()
    other = peers.send(step("work", gate=str(others)))
    peers.until_running(other)
    # What may have brought a worker down runs alone: the heir waits for its other run to end.
    peers.until(lambda: peers.bucket.names("*.attempts"), "the frozen worker to be given up for lost")
    gate.touch()
    worker.thaw()
    peers.until(lambda: peers.bucket.names(f"*{sent.image_id}*.json"), "its result to be recorded")
    others.touch()
    peers.until_settled()

    assert heir.alive
    assert (peers.tally(sent).runs, peers.tally(sent).effects) == (1, 1)
    judge(peers)


@pytest.mark.race
def test_s3_a_worker_frozen_while_it_calls_back_is_one_of_the_three_windows(peers: Peers) -> None:
    worker = peers.worker(BACKEND_CALLBACK_TIMEOUT="20").until_ready()
    hung = peers.backend.fail(times=1, delay=math.inf, applied=True)
    sent = peers.send()
    until_calling(peers, sent)
    worker.freeze()
    peers.worker().until_ready()
    peers.until_settled()
    hung.lift()
    worker.thaw()
    lasts(1.0)

    tally = peers.tally(sent)
    assert (tally.runs, tally.effects, tally.calls) == (1, 1, 2)
    judge(peers)


# ------------------------------------------------------------------------------- rollouts


@pytest.mark.race
@pytest.mark.alone
@pytest.mark.parametrize(("mode", "rounds"), [("finish", 3), ("abort", 7)])
def test_s4_restarts_of_three_workers_under_load_use_up_no_attempt(
    peers: Peers, mode: str, rounds: int
) -> None:
    changes = {"DRAIN_MODE": mode, "MAX_ATTEMPTS": "2"}
    good = [peers.send(step("work", seconds=0.3)) for _ in range(30)]
    poison = peers.send(step("work", how="transient"))
    workers = [peers.worker(**changes) for _ in range(3)]
    ends: list[tuple[int, float]] = []
    for _ in range(rounds):
        for worker in workers:
            worker.until_log("ready")
        peers.cut_rests()
        good += [peers.send(step("work", seconds=0.3)) for _ in range(3)]
        told = time.monotonic()
        for worker in workers:
            worker.terminate()
        heirs = [peers.worker(**changes) for _ in range(3)]
        ends += [(worker.ended(15), time.monotonic() - told) for worker in workers]
        workers = heirs
    peers.until_settled(60)

    assert {code for code, _ in ends} == {0}
    assert max(seconds for _, seconds in ends) < 12
    assert {peers.tally(each).letters for each in good} == {0}
    assert {peers.tally(each).effects for each in good} == {1}
    assert peers.tally(poison).letters == 1
    judge(peers)


def test_a_worker_told_to_end_by_hand_says_so_by_its_exit_code(peers: Peers) -> None:
    worker = peers.worker().until_ready()
    worker.popen.send_signal(signal.SIGINT)

    assert worker.ended(10) == 130
