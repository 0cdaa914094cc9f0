"""The worker as a container's first process: for it the kernel drops signals that nobody handles."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import COMMAND, bare_environment
from tests.faults.peers import ONCE, Peers, open_peers, step
from tests.faults.worker import Worker
from tests.peers import free_port

NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]
"""Makes what it starts the first process of a namespace, as a container does."""


@functools.cache
def can_make_namespaces() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not can_make_namespaces(), reason="this kernel lets nobody make PID namespaces (or has no unshare)"
)


@dataclass
class First:
    """A process that is the first of its namespace."""

    outer: Worker
    """`unshare`, which ends with the exit code of the other."""

    @property
    def pid(self) -> int:
        """Its id out here."""
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def status(self, field: str) -> str:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines() if self.pid else []
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:")), "")

    def hears(self, number: signal.Signals) -> bool:
        """Whether it has a handler of its own for a signal."""
        return bool(int(self.status("SigCgt") or "0", 16) >> (number - 1) & 1)

    def tell(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    with open_peers(tmp_path) as peers:
        yield peers


@pytest.fixture
def start(peers: Peers) -> Callable[..., First]:
    def begin(*words: str) -> First:
        port = free_port()
        log = peers.folder / f"worker-{port}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [*NAMESPACE, COMMAND, *words],
                env=bare_environment(**peers.environment(PORT=str(port))),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
            )
        return First(peers.resources.enter_context(Worker(popen, log, port)))

    return begin


def test_it_is_the_first_process_of_its_namespace(start: Callable[..., First]) -> None:
    first = start("run")
    first.outer.until_ready()

    assert first.status("NSpid").split()[-1] == "1"


def test_a_signal_drains_it_as_any_other(peers: Peers, start: Callable[..., First]) -> None:
    first = start("run")
    first.outer.until_ready()
    sent = peers.send(step("work", seconds=1.0))
    peers.until_running(sent)
    first.tell(signal.SIGTERM)

    assert first.outer.ended(10) == 0
    assert peers.tally(sent) == ONCE
    assert peers.acked(sent)


def test_a_second_signal_ends_it_at_once(peers: Peers, start: Callable[..., First]) -> None:
    first = start("run")
    first.outer.until_ready()
    sent = peers.send(step("work", gate=str(peers.gate())))
    peers.until_running(sent)
    first.tell(signal.SIGTERM)
    first.outer.until_log("stopping")
    first.tell(signal.SIGTERM)

    assert first.outer.ended(5) == 1


def test_a_signal_ends_it_before_anything_slow_is_imported(start: Callable[..., First]) -> None:
    first = start("run")
    first.outer.until(lambda: first.hears(signal.SIGTERM), "a handler for SIGTERM")
    imported = Path(f"/proc/{first.pid}/maps").read_text()
    first.tell(signal.SIGTERM)

    assert first.outer.ended(10) in (0, 128 + signal.SIGTERM)
    assert "grpc" not in imported
    assert "torch" not in imported


def test_it_starts_no_processes_that_somebody_would_have_to_wait_for(
    peers: Peers, start: Callable[..., First]
) -> None:
    first = start("run")
    first.outer.until_ready()
    sent = peers.send(step("work"), step("detection"), step("keep"))
    peers.until(lambda: peers.acked(sent), "the message to be done")

    children = [(task / "children").read_text() for task in Path(f"/proc/{first.pid}/task").iterdir()]
    assert "".join(children) == ""
