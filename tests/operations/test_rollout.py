"""A rollout rehearsed: three workers under load replaced one by one, as the production overlay says.

Each process has the manifest's own command, environment and grace period; see `rollout.py` for what differs.
`pytest tests/operations/test_rollout.py` shows what the load felt of it.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.settings import Settings
from tests.faults.invariants import judge
from tests.faults.peers import ONCE, Peers, open_peers
from tests.operations.manifest import Pod, needs_kubectl, pod_of, rendered
from tests.operations.rollout import OURS, Fleet, Latencies, Load

pytestmark = [pytest.mark.alone, needs_kubectl]

WORKERS = 3
RATE = 8.0
"""Messages a second: what two cores can do while they also start workers."""


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    with open_peers(tmp_path) as peers:
        yield peers


@pytest.fixture
def pod() -> Pod:
    return dataclasses.replace(pod_of(rendered("prod")), replicas=WORKERS)


def show(request: pytest.FixtureRequest, *lines: str) -> None:
    """Write into pytest's own output, whether the test fails or not."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    if reporter is not None and capture is not None:
        with capture.global_and_fixture_disabled():
            for line in lines:
                reporter.write_line(f"  {line}")


def default_slots(pod: Pod) -> int:
    """Slots of a worker with one device, unless the manifest says how many."""
    return int(pod.environment.get("SLOTS", 5))


@pytest.mark.timeout(600)  # where the machine does other work too; else half a minute
def test_three_workers_under_load_are_replaced_and_nothing_is_lost_or_repeated(
    peers: Peers, pod: Pod, request: pytest.FixtureRequest
) -> None:
    fleet, load, over = Fleet(pod, peers), Load(peers, RATE), threading.Event()
    for worker in [fleet.begin() for _ in range(WORKERS)]:
        fleet.until_ready(worker)
    publishing = threading.Thread(target=load.run, args=(over,))
    began = time.monotonic()
    publishing.start()
    try:
        peers.until(lambda: len(load.sent) >= 4 * RATE, "four seconds of load", 120)
        rolling, first = time.monotonic(), list(fleet.running)
        fleet.roll_out()
        rolled = time.monotonic()
        peers.until(lambda: time.monotonic() > rolled + 2, "two more seconds of load")
    finally:
        over.set()
        publishing.join()
    peers.until_settled(60)
    show(
        request,
        "",
        f"before the rollout: {Latencies.of(peers, began, rolling)}",
        f"during it ({rolled - rolling:.0f} s): {Latencies.of(peers, rolling, rolled)}",
        f"drains: {', '.join(f'{seconds:.1f} s' for _, seconds in fleet.ends)} of {pod.grace:g} s",
    )

    assert not {worker.pid for worker in first} & {worker.pid for worker in fleet.running}
    assert [code for code, _ in fleet.ends] == [0] * WORKERS, "all drained within the grace period"
    assert len(fleet.running) == WORKERS
    repeated = {sent.image_id: peers.tally(sent) for sent in load.sent if peers.tally(sent) != ONCE}
    assert repeated == {}, f"of {len(load.sent)} messages these were not done exactly once"
    judge(peers, slots=default_slots(pod))


def test_a_rehearsal_changes_nothing_that_decides_how_a_rollout_ends(peers: Peers, pod: Pod) -> None:
    said, given = pod.environment, Fleet(pod, peers).environment()
    kept = {name for name in said if name not in OURS}

    assert {name: given[name] for name in kept} == {name: said[name] for name in kept}
    assert {"DRAIN_TIMEOUT", "DRAIN_MODE", "GRACE_PERIOD", "LEASE_SECONDS"} <= kept
    assert kept - {name.upper() for name in Settings.model_fields} == set(), "not the worker's variables"


def test_the_pods_that_are_rehearsed_are_replaced_one_by_one(pod: Pod) -> None:
    assert (pod.surge, pod.unavailable) in {(1, 0), (0, 1)}
