"""What the whole worker makes of a device: `python -m benchmarks.a_efficiency [--only NAME] [--no-peers]`.

Photos a second from message to ack (fetched, recorded, published, called back) over those of a bare loop that
has the same model and, in its hands, the pictures: 1 would be a device that never waits for its worker.

- *real*: the shipped detector, computing on core 0: of our process the device's thread, of others whichever
  thread has the model, for as long as it has it (LitServe's has it always). All else shares core 1: fetching,
  decoding and delivering of all sides, the broker, the bucket and the backend.
- *simulated*: devices of 8 ms a batch and half a millisecond a picture, of 80 ms and 5 ms, and of 200 ms and
  12.5 ms; asleep, as a GPU leaves the CPU alone. So whoever is measured has core 0, all else core 1.

A round is many messages, all published before it begins; what counts is the steady part (`pace`). How busy
our device was and how good its batches were come from the worker's own metrics: the busy share is the seconds
batches ran over all seconds, the quality is what full batches of as many pictures take over those seconds.

Beside it, in the same turns, with the same photos, model, broker, bucket and backend: Google's streaming
client with the model in its callback, LitServe with batching behind a shim, Celery on its Pub/Sub transport.
They keep no record of what they did: that is work they are spared.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, cast
from uuid import uuid4

from benchmarks.method import (
    PATIENCE,
    Figure,
    Measured,
    Row,
    Side,
    Target,
    believed,
    control_row,
    in_turns,
    is_settled,
    itself,
    median,
    on_core,
    parser,
    progress,
    ratio,
    require_quiet,
    write_cases,
)
from benchmarks.peers import environment as peers
from benchmarks.surroundings import (
    DEVICE_CORE,
    OTHER_CORE,
    START_LIMIT,
    Line,
    Program,
    Surroundings,
    TooSlow,
    as_json,
    figures,
    wait_for,
)
from benchmarks.surroundings import pace as pace_of
from tests.peers import free_port

BLOCKS, BESIDE_PEERS = 3, 2
"""How often ours and the bare loop are measured by themselves, and how often all sides are."""


_AWAKE = 0.5
"""Seconds from thawing to the first message: calls that ran out meanwhile would swallow it."""


@dataclass(frozen=True)
class Case:
    """A device, the photos it is shown, and what is expected."""

    name: str
    model: str
    """`plants`, or `simulated:` and the seconds of a batch and of each picture in it."""
    side: int
    """Of the photos, in pixels."""
    batch: int
    slots: int
    messages: int
    """Of a round."""
    target: float
    serial: int = 0
    """Of a round of peers who cannot batch; 0 where no peer is measured."""

    @property
    def is_real(self) -> bool:
        """Whether something is computed."""
        return not self.model.startswith("simulated")

    @property
    def devices(self) -> str:
        """The device, in the worker's words."""
        if self.is_real:
            return "cpu"
        _, fixed, per_item = self.model.split(":")
        return f"simulated:fixed={fixed}:per_item={per_item}"


CASES = (
    Case("real", "plants", 960, 1, 6, 30, 0.93, 30),
    Case("simulated, 8 ms + 0.5 ms a picture", "simulated:0.008:0.0005", 256, 8, 32, 300, 0.97),
    Case("simulated, 80 ms + 5 ms a picture", "simulated:0.08:0.005", 256, 8, 32, 192, 0.97, 24),
    Case("simulated, 200 ms + 12.5 ms a picture", "simulated:0.2:0.0125", 256, 8, 32, 128, 0.97),
)


# ------------------------------------------------------------ in processes of their own: bare loop, worker


def bare(model: str, side: int, batch: int) -> None:
    """Answer each number of seconds on standard input by the pictures a second of the best batch."""
    on_core(DEVICE_CORE)
    run = _sleeping(model, batch) if model.startswith("simulated") else _computing(model, side)
    run(0.5)
    for line in sys.stdin:
        print(json.dumps(run(float(line))), flush=True)


def _sleeping(model: str, batch: int) -> Callable[[float], float]:
    _, fixed, per_item = model.split(":")
    seconds = float(fixed) + batch * float(per_item)
    return lambda limit: _pace(partial(time.sleep, seconds), batch, limit)


def _computing(model: str, side: int) -> Callable[[float], float]:
    import torch

    from benchmarks.peers.plants import runner
    from pipeline_steps.image.intake import read_image

    torch.set_num_threads(1)
    detector = runner(model)
    ready = detector.prepare(read_image(photo(side), max_pixels=1 << 30, name="photo").pixels)

    def at(batch: int, limit: float) -> float:
        with torch.inference_mode():
            return _pace(lambda: detector.run([ready] * batch), batch, limit)

    best = max((1, 2, 4), key=lambda batch: at(batch, 1.0))
    return partial(at, best)


def _pace(work: Callable[[], object], pictures: int, limit: float) -> float:
    began, times = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < limit or times < 2:
        work()
        times += 1
    return times * pictures / took


def worker(model: str) -> None:
    """Be `mlworker run`, with its threads where the case wants them."""
    from consumer.ops.allocator import bound_allocator
    from consumer.serve import serve

    bound_allocator()
    if model.startswith("simulated"):
        on_core(DEVICE_CORE)
    else:
        on_core(OTHER_CORE)
        threading.Thread(target=_move_device_thread, daemon=True).start()
    sys.exit(asyncio.run(serve()))


def _move_device_thread() -> None:
    """Put the device's thread on its core as soon as there is one; what it started before stays."""
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        for thread in threading.enumerate():
            if thread.name.startswith("device-") and thread.native_id is not None:
                os.sched_setaffinity(thread.native_id, {DEVICE_CORE % (os.cpu_count() or 1)})
                print(f"{thread.name} is on core {DEVICE_CORE}", file=sys.stderr, flush=True)
                return
        time.sleep(0.005)


# ------------------------------------------------------------------------------------------ the sides


@dataclass
class Fed:
    """A side that is fed from Pub/Sub."""

    case: Case
    line: Line
    programs: Sequence[Program]
    bodies: Callable[[int], list[bytes]]
    """Makes so many messages."""
    messages: int
    attributes: dict[str, str] = field(default_factory=dict)
    cpu: list[float] = field(default_factory=list)
    """Seconds of processor time a message, round by round."""

    def try_it(self) -> None:
        """Let it do a few messages, to see that it works."""
        messages, self.messages = self.messages, self.case.slots
        self.round()
        self.messages = messages

    def round(self) -> float:
        """Give it messages, let it take them, and return how many it did a second."""
        self.line.around.only_photos()
        self._thaw()
        time.sleep(_AWAKE)
        try:
            self.line.acked.clear()
            before = sum(program.seconds() for program in self.programs)
            self.line.send(self.bodies(self.messages), self.attributes)
            at = self.line.until_acked(self.messages, self._check)
            self.cpu.append((sum(program.seconds() for program in self.programs) - before) / self.messages)
        finally:
            for program in self.programs:
                program.freeze()
        return pace_of(at, self.case.slots)

    def _thaw(self) -> None:
        for program in self.programs:
            program.thaw()

    def _check(self) -> None:
        for program in self.programs:
            program.check()


@dataclass
class Ours(Fed):
    """The worker, with its own account of its device."""

    url: str = ""
    busy: list[float] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    held_up: list[float] = field(default_factory=list)
    """The share of the time in which it stood idle although something waited for it."""
    bare: float = 0.0
    """Pictures a second of the bare loop beside it."""

    def round(self) -> float:
        """As every side does, and look at its metrics before and after."""
        self._thaw()
        before, began = figures(self.url), time.perf_counter() + _AWAKE
        found = super().round()
        self._thaw()
        seconds = self.line.acked[-1] - began
        done = figures(self.url) - before
        for program in self.programs:
            program.freeze()
        self.busy.append(done.busy_ratio(seconds))
        self.quality.append(done.items / self.bare / done.busy_seconds)
        self.held_up.append(done.overhead_seconds / seconds)
        return found


class Bare:
    """The bare loop, running."""

    def __init__(self, case: Case, seconds: float) -> None:
        self._seconds = seconds
        command = [sys.executable, "-m", "benchmarks.a_efficiency", "--bare", case.model, str(case.side)]
        self._popen = subprocess.Popen(
            [*command, str(case.batch)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def round(self) -> float:
        """Return pictures a second."""
        stdin, stdout = cast(IO[str], self._popen.stdin), cast(IO[str], self._popen.stdout)
        print(self._seconds, file=stdin, flush=True)
        guard = threading.Timer(START_LIMIT, self._popen.kill)  # so that no answer ends the waiting too
        guard.start()
        try:
            told = stdout.readline()
        finally:
            guard.cancel()
        if not told:
            raise TooSlow("the bare loop ended")
        return float(json.loads(told))

    def close(self) -> None:
        """End it."""
        self._popen.kill()
        self._popen.wait()


@dataclass
class Bench:
    """What one case is measured in."""

    case: Case
    around: Surroundings
    folder: Path
    resources: ExitStack
    url: str
    """Of the photo."""
    failures: dict[str, str] = field(default_factory=dict)
    """Peers that did not run, or not to the end, and why."""

    def start(
        self, name: str, python: str | Path, module: str, *arguments: str, **environment: str
    ) -> Program:
        """Start a program of a side."""
        told = self.around.environment(
            MODEL=self.case.model, BATCH=str(self.case.batch), PYTHONPATH=str(peers.ROOT), **environment
        )
        command = [str(python), "-m", module, *arguments]
        return self.resources.enter_context(Program.start(name, command, told, self.folder))

    def requests(self, count: int) -> list[bytes]:
        """Return messages as a backend sends them: every one is another job on the same photo."""
        return [
            as_json(
                tenant_id="acme",
                session_id=str(uuid4()),
                image_id=str(uuid4()),
                image_url=self.url,
                pipeline_definition={
                    "steps": [{"type": "step", "name": "detection", "kwargs": {"model": "plants"}}]
                },
            )
            for _ in range(count)
        ]

    def peers(self) -> dict[str, Fed]:
        """Start those of the others that run here; `failures` has the others."""
        found = {}
        for name, start in (
            ("streaming client", self.streaming),
            ("LitServe", self.litserve),
            ("Celery", self.celery),
        ):
            try:
                side = start()
                side.try_it()
            except (TooSlow, peers.NoPeers, subprocess.TimeoutExpired) as error:
                self.failures[name] = f"did not run: {error}"
            else:
                found[name] = side
        return found

    def forgiving(self, name: str, peer: Fed) -> Side:
        """Return the peer's rounds, of which one that fails is noted and not the end of the others."""

        def measure() -> float:
            if name in self.failures:
                return 0.0
            try:
                return peer.round()
            except TooSlow as error:
                self.failures[name] = f"gave up in the middle: {error}"
                return 0.0

        return measure

    def ours(self) -> Ours:
        """Start the worker."""
        line, port = self.around.subscribe("worker"), free_port()
        program = self.start(
            "worker", sys.executable, "benchmarks.a_efficiency", "--worker", self.case.model,
            SUBSCRIPTION="worker", RESULTS_TOPIC="results", DEAD_LETTER_TOPIC="dead-letters",
            DEVICES=self.case.devices, SLOTS=str(self.case.slots), PORT=str(port), DRAIN_MODE="abort",
        )  # fmt: skip
        wait_for(f"http://127.0.0.1:{port}/readyz", program)
        url = f"http://127.0.0.1:{port}/metrics"
        return Ours(self.case, line, [program], self.requests, self.case.messages, url=url)

    def streaming(self) -> Fed:
        """Start Google's client; it has no place to batch in."""
        line = self.around.subscribe("streaming")
        program = self.start("streaming", peers.python(), "benchmarks.peers.streaming", SIDE="streaming")
        program.until_said("ready")
        return Fed(self.case, line, [program], self.requests, self.case.serial)

    def litserve(self) -> Fed:
        """Start LitServe and what feeds it."""
        line, port = self.around.subscribe("litserve"), free_port()
        settings = {"PORT": str(port), "SIDE": "litserve", "BATCH_TIMEOUT": "0.005"}
        python = peers.python()
        server = self.start("litserve", python, "benchmarks.peers.litserve_server", **settings)
        wait_for(f"http://127.0.0.1:{port}/health", server)
        shim = self.start("shim", python, "benchmarks.peers.litserve_shim", **settings)
        shim.until_said("ready")
        return Fed(self.case, line, [server, shim], self.requests, self.case.messages)

    def celery(self) -> Fed:
        """Start Celery, which makes its topic and its subscription itself; it has no place to batch in."""
        topic, subscription = (f"projects/bench/{kind}/celery" for kind in ("topics", "subscriptions"))
        line, python = Line(self.around, topic, subscription), peers.python()
        program = self.start("celery", python, "benchmarks.peers.celery_app", SIDE="celery")
        sender = self.start(
            "sender", python, "benchmarks.peers.celery_app", "--send", self.url, SIDE="celery"
        )
        line.until_acked(1, program.check, START_LIMIT)
        sender.popen.wait(START_LIMIT)
        sent = self.around.acks.published[topic]
        attributes = dict(sent.attributes)
        return Fed(
            self.case, line, [program], lambda count: [sent.data] * count, self.case.serial, attributes
        )


def photo(side: int) -> bytes:
    """Return a square JPEG of a nursery scene."""
    from consumer.local.scenes import demo_photo
    from pipeline_steps.image.encode import encode_jpeg

    return encode_jpeg(demo_photo(7, side, side).pixels, 88)


@contextmanager
def benches(case: Case) -> Iterator[Bench]:
    """Yield everything around the sides of a case."""
    with tempfile.TemporaryDirectory() as folder, Surroundings() as around, ExitStack() as resources:
        url = around.upload("acme/originals/tray.jpg", photo(case.side))
        yield Bench(case, around, Path(folder), resources, url)


def measured(case: Case, blocks: int, beside_peers: int, *, busy: bool) -> list[Row]:
    """Measure a case.

    Raises:
        BusyMachine: the bare loop is not as fast as itself, and nobody said `busy`.
    """
    with benches(case) as bench:
        progress(f"{case.name}: starting")
        loop = Bare(case, 2.0 if case.is_real else 1.0)
        bench.resources.callback(loop.close)
        ours = bench.ours()
        ours.bare = loop.round()
        alone: dict[str, Side] = {"bare": loop.round, "bare again": loop.round, "ours": ours.round}
        peers_there = bench.peers() if case.serial and beside_peers else {}
        rates = in_turns(alone, blocks)
        if peers_there:
            theirs = {name: bench.forgiving(name, peer) for name, peer in peers_there.items()}
            rates = together(rates, in_turns(alone | theirs, beside_peers, warm=True))  # they were tried

        def enough(more: Measured) -> bool:
            found = together(rates, more)
            return is_settled([efficiency(case, found)], itself(found, "bare"), busy=busy)

        rates = together(rates, in_turns(alone, 0, warm=True, enough=enough, most=PATIENCE * blocks))
        # Of who failed in the middle no figure is left: half of one would be about nothing.
        whole = {name: peer for name, peer in peers_there.items() if name not in bench.failures}
        rates = {name: found for name, found in rates.items() if name in alone or name in whole}
        control = believed(itself(rates, "bare"), busy=busy)
        failures = [f"{who}: {why}" for who, why in bench.failures.items()]
        return [*rows(case, rates, ours, whole, failures), control_row("a", control, case.name)]


def together(some: Measured, more: Measured) -> dict[str, list[float]]:
    """Return what each side measured at first and afterwards."""
    return {name: [*some.get(name, ()), *more.get(name, ())] for name in {**some, **more}}


def efficiency(case: Case, rates: Measured) -> Row:
    """Return the row that the case is about."""
    share = ratio(rates["ours"], rates["bare"])
    return Row("a", f"{case.name}: worker ÷ bare loop", share, Target(least=case.target))


def rows(
    case: Case,
    rates: Measured,
    ours: Ours,
    others: Mapping[str, Fed],
    failures: Sequence[str],
) -> list[Row]:
    """Make rows of the sides' messages a second."""
    where = "the device's thread" if case.is_real else "the worker"
    host = {name: 1000 * median(side.cpu[1:]).value for name, side in {"ours": ours, **others}.items()}
    told = [
        f"{where} on core 0, all else on core 1; batches of {case.batch}, {case.slots} slots",
        "messages a second: " + ", ".join(f"{name} {median(of).value:.4g}" for name, of in rates.items()),
        "processor ms a message: " + ", ".join(f"{name} {of:.3g}" for name, of in host.items()),
        *failures,
    ]
    return [
        replace(
            efficiency(case, rates),
            peers={name: median(rates[name]).value / median(rates["bare"]).value for name in others},
            peer_versions=peers.versions() if others else {},
            note="; ".join(told),
        ),
        Row(
            "a", f"{case.name}: share of the time in which the device was busy", _capped(ours.busy[1:]),
            note=f"idle although something waited: {100 * median(ours.held_up[1:]).value:.2g} % of the time",
        ),
        Row("a", f"{case.name}: quality of its batches", median(ours.quality[1:])),
    ]  # fmt: skip


def _capped(shares: Sequence[float]) -> Figure:
    """A share that is measured by two clocks may be a hair over 1."""
    return median([min(share, 1.0) for share in shares])


def main() -> None:
    """Measure what the arguments say."""
    options = parser(__doc__)
    options.add_argument("--only", metavar="TEXT", default="", help="cases whose name contains this")
    options.add_argument("--no-peers", action="store_true", help="without the others")
    asked = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that what was started is ended
    require_quiet(busy=asked.busy)
    blocks = asked.blocks or BLOCKS
    beside = 0 if asked.no_peers else min(blocks, BESIDE_PEERS)
    cases = {
        case.name: partial(measured, case, blocks, beside, busy=asked.busy)
        for case in CASES
        if asked.only in case.name
    }
    write_cases("a-efficiency", cases, asked)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        bare(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2])
    else:
        main()
