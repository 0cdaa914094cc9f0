"""A rolling update on one machine: what a Deployment's controller and the kubelet do, to processes."""

from __future__ import annotations

import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from consumer.local.pubsub import Deed
from tests.command import COMMAND, bare_environment
from tests.faults.peers import BUCKET, REQUESTS, WORK, Peers, Sent, step
from tests.faults.worker import Worker
from tests.operations.manifest import Pod
from tests.peers import free_port

PLACES = (
    "GOOGLE_CLOUD_PROJECT", "SUBSCRIPTION", "REQUESTS_TOPIC", "RESULTS_TOPIC", "DEAD_LETTER_TOPIC",
    "DEAD_LETTER_SUBSCRIPTION", "BUCKET", "BACKEND_URL", "PUBSUB_EMULATOR_HOST", "STORAGE_EMULATOR_HOST",
    "PYTHONPATH", "FAULTS_RUNS",
)  # fmt: skip
"""Variables that say where things are: here they are servers of this test, and steps that keep account."""
HARDWARE = {"DEVICES": "simulated:fixed=0.02", "MODEL_PATH": "demo"}
"""A GPU that only takes time."""
ELSEWHERE = (
    "ALLOWED_BUCKETS",
    "CALLBACK_AUTH",
    "CALLBACK_ALLOWED_HOSTS",
    "LD_LIBRARY_PATH",
    "CUDA_CACHE_PATH",
)
"""Variables about what this machine does not have: Google's identities, the driver's libraries."""
OURS = frozenset((*PLACES, *HARDWARE, *ELSEWHERE, "PORT", "ROUTES_FILE", "PRESETS_FILE", "HOME", "TMPDIR"))
"""Every variable of the manifest that a rehearsal changes. The rest is as it is there."""


@dataclass
class Fleet:
    """Pods as processes.

    Args:
        pod: how each is started.
        peers: what they talk to.
    """

    pod: Pod
    peers: Peers
    running: list[Worker] = field(default_factory=list)
    ends: list[tuple[int, float]] = field(default_factory=list)
    """Exit code and seconds of every pod that was told to go."""

    def begin(self) -> Worker:
        """Start a pod with the manifest's command and environment."""
        port = free_port()
        log = self.peers.folder / f"pod-{port}.log"
        assert self.pod.command[0] == COMMAND.name
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [COMMAND, *self.pod.command[1:]],
                env=bare_environment(**self.environment(), PORT=str(port)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
            )
        worker = self.peers.resources.enter_context(Worker(popen, log, port))
        self.running.append(worker)
        return worker

    def environment(self) -> dict[str, str]:
        """What the manifest says, but for what is somewhere else here."""
        here = self.peers.environment()
        said = {name: value for name, value in self.pod.environment.items() if name not in OURS}
        for name in ("ROUTES_FILE", "PRESETS_FILE"):
            if name in self.pod.environment:
                said[name] = str(self._file(self.pod.environment[name]))
        return {**said, **HARDWARE, **{name: here[name] for name in PLACES if name in here}}

    def until_ready(self, worker: Worker) -> None:
        """Wait as the controller does: until the manifest's readiness probe succeeds."""
        worker.until(lambda: worker.ask(self.pod.readiness)[0] == 200, "its readiness probe", self.pod.start)

    def end(self, worker: Worker) -> None:
        """Tell a pod to go and wait as the kubelet does: for its grace period, then kill it."""
        self.running.remove(worker)
        told = time.monotonic()
        worker.terminate()
        try:
            code = worker.popen.wait(self.pod.grace)
        except subprocess.TimeoutExpired:
            worker.kill()
            code = worker.popen.returncode
        self.ends.append((code, time.monotonic() - told))

    def roll_out(self) -> None:
        """Replace every pod as the manifest's strategy says: first the new one if there may be one more."""
        for old in list(self.running):
            if self.pod.surge:
                self.until_ready(self.begin())
                self.end(old)
            else:
                self.end(old)
                self.until_ready(self.begin())

    def _file(self, path: str) -> Path:
        """A file of a ConfigMap, with this machine's one bucket in place of the site's."""
        here = self.peers.folder / path.lstrip("/")
        here.parent.mkdir(parents=True, exist_ok=True)
        content = self.pod.files[path]
        for bucket in self.pod.environment.get("ALLOWED_BUCKETS", "").split(","):
            content = content.replace(bucket, BUCKET) if bucket else content
        here.write_text(content)
        return here


@dataclass
class Load:
    """Requests at an even rate, or as many as are done where that is fewer, until told that it is enough.

    Args:
        peers: to whom.
        rate: how many a second.
        backlog: how many may wait at most.
    """

    peers: Peers
    rate: float
    backlog: int = 30
    sent: list[Sent] = field(default_factory=list)

    def run(self, over: threading.Event) -> None:
        """Publish; one request in ten asks a model, the others take a while in other ways."""
        for number in range(1_000_000):
            due = time.monotonic() + 1 / self.rate
            kind = number % 10
            if kind == 0:
                self.sent.append(self.peers.send(step("work"), step("detection"), step("count")))
            elif kind < 3:
                self.sent.append(self.peers.send(step("work_in_thread", seconds=0.1)))
            else:
                self.sent.append(self.peers.send(step("work", seconds=0.03 * kind)))
            while time.monotonic() < due or self.peers.broker.backlog(WORK) >= self.backlog:
                if over.wait(0.02):
                    return


@dataclass(frozen=True)
class Latencies:
    """From a message's publishing to its ack, in seconds."""

    seconds: tuple[float, ...]

    @classmethod
    def of(cls, peers: Peers, since: float = 0.0, until: float = float("inf")) -> Latencies:
        """Those of messages that were published between two moments."""
        published = {line.message.id: line.at for line in peers.journal.lines(Deed.PUBLISHED, where=REQUESTS)}
        acked = {line.message.id: line.at for line in peers.journal.lines(Deed.ACKED, where=WORK)}
        return cls(
            tuple(
                sorted(
                    acked[each] - at
                    for each, at in published.items()
                    if since <= at < until and each in acked
                )
            )
        )

    def quantile(self, share: float) -> float:
        return self.seconds[min(len(self.seconds) - 1, int(share * len(self.seconds)))]

    def __str__(self) -> str:
        if not self.seconds:
            return "none"
        shown = ", ".join(f"{name} {self.quantile(q):.2f} s" for name, q in (("p50", 0.5), ("p99", 0.99)))
        return f"{len(self.seconds)} messages, {shown}, slowest {self.seconds[-1]:.2f} s"
