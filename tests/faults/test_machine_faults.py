"""The machine under the worker: clocks jump, the CPU is throttled, memory ends, nobody reads the log."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contracts.result import ProcessingResult
from tests.faults.invariants import judge
from tests.faults.peers import ONCE, RESULTS, Peers, lasts, step
from tests.faults.worker import Worker


@pytest.fixture(scope="module")
def moved_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that, preloaded, moves a process's wall clock."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("moving the wall clock of one process needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).parent / "clock.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def test_o2_a_wall_clock_that_jumps_during_a_job_costs_no_lease_and_no_claim(
    peers: Peers, moved_clock: Path
) -> None:
    clock, gate = peers.folder / "clock", peers.gate()
    clock.write_text("0")
    changes = {"LD_PRELOAD": str(moved_clock), "FAULTS_CLOCK": str(clock)}
    peers.worker(**changes).until_ready()
    sent = peers.send(step("work", gate=str(gate)))
    peers.until_running(sent)
    for jump in ("7200", "-7200"):  # two hours ahead, two hours back
        clock.write_text(jump)
        lasts(3)  # more than a lease
    gate.touch()
    peers.until_settled()

    [line] = peers.journal.lines(where=RESULTS)
    result = ProcessingResult.model_validate_json(line.message.data)
    assert result.finished_at < result.started_at  # it believed what it was told
    assert peers.deliveries(sent) == 1
    assert peers.tally(sent) == ONCE
    judge(peers)


@pytest.mark.race
@pytest.mark.parametrize("jump", ["7200", "-7200"], ids=["two-hours-ahead", "two-hours-back"])
def test_o2_two_workers_whose_clocks_disagree_do_a_message_that_both_hold_once(
    peers: Peers, moved_clock: Path, jump: str
) -> None:
    clock, gate = peers.folder / "clock", peers.gate()
    clock.write_text(jump)
    peers.worker(LD_PRELOAD=str(moved_clock), FAULTS_CLOCK=str(clock)).until_ready()
    peers.worker().until_ready()
    body = peers.request(step("work", gate=str(gate)))
    first, second = peers.publish(body), peers.publish(body)
    peers.until_running(first)
    peers.until(lambda: peers.deliveries(first) and peers.deliveries(second), "both to be delivered")
    lasts(3)  # more than a lease, during which the claim is renewed
    gate.touch()
    peers.until_settled()

    assert peers.tally(first) == ONCE
    judge(peers)


@contextmanager
def throttled(worker: Worker, share: float, period: float = 0.1) -> Iterator[None]:
    """Let a process run for a share of the time only."""
    over = threading.Event()

    def throttle() -> None:
        while not over.is_set():
            worker.freeze()
            over.wait(period * (1 - share))
            worker.thaw()
            over.wait(period * share)

    thread = threading.Thread(target=throttle)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        worker.thaw()


@pytest.mark.alone
def test_o3_a_worker_with_a_tenth_of_a_core_keeps_its_leases(peers: Peers) -> None:
    worker = peers.worker().until_ready()
    sent = peers.send(step("work", seconds=4))
    peers.until_running(sent)
    with throttled(worker, 0.1):
        peers.until_settled()

    assert peers.deliveries(sent) == 1
    assert peers.tally(sent) == ONCE
    judge(peers)


def test_o3_a_step_that_takes_all_memory_fails_alone(peers: Peers) -> None:
    greedy = peers.send(step("work_in_thread", how="allocate"))
    good = [peers.send() for _ in range(3)]
    worker = peers.worker(memory_limit=2 << 30, MAX_ATTEMPTS="2")
    peers.until_settled()

    assert [letter.code for letter in peers.letters(greedy)] == ["out_of_memory"]
    assert [peers.tally(each) for each in good] == [ONCE] * 3
    assert worker.alive
    judge(peers)


def test_o4_a_log_that_nobody_reads_costs_no_lease(peers: Peers) -> None:
    worker = peers.worker(reads_log=False, BRAKE_DEAD_LETTERS="0").until_ready()
    gate = peers.gate()
    held = peers.send(step("work_in_thread", gate=str(gate)))
    peers.until_running(held)
    # Each of these leaves some lines; the pipe takes 64 kB.
    others = [peers.send(step("nothing-like-this", how="x" * 500)) for _ in range(150)]
    lasts(4)
    assert not all(peers.acked(each) for each in others)  # else the pipe never was full
    assert peers.deliveries(held) == 1
    worker.read_log()
    gate.touch()
    peers.until_settled()

    assert peers.deliveries(held) == 1
    assert peers.tally(held) == ONCE
    assert {len(peers.letters(each)) for each in others} == {1}
    judge(peers)


def test_o4_a_collector_of_traces_that_is_away_costs_nothing(peers: Peers) -> None:
    sent = [peers.send() for _ in range(5)]
    worker = peers.worker(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_TRACES_EXPORTER="otlp")
    peers.until_settled()
    worker.terminate()

    assert worker.ended(12) == 0
    assert [peers.tally(each) for each in sent] == [ONCE] * 5
    judge(peers)


def test_the_worker_of_these_tests_never_loads_torch(peers: Peers) -> None:
    """What they prove is the worker's, and cheap enough to be proven often."""
    code = (
        "import atexit, sys\n"
        "sys.argv = ['mlworker', 'run']\n"
        "from consumer.cli import main\n"
        "import os\n"
        "leave = os._exit\n"
        "def say(): print('torch' in sys.modules, file=sys.__stdout__, flush=True)\n"
        "atexit.register(say)\n"
        "def told(code): say(); leave(code)\n"
        "os._exit = told\n"
        "main()\n"
    )
    popen = subprocess.Popen(
        [sys.executable, "-c", code],
        env={"PATH": "/usr/bin:/bin", **peers.environment(PORT="0")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    sent = peers.send(step("work"), step("detection"), step("count"))
    peers.until_settled()
    popen.terminate()
    said, _ = popen.communicate(timeout=20)

    assert said.decode().split()[0] == "False"
    assert peers.tally(sent) == ONCE
