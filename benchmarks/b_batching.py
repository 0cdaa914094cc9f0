"""What sharing batches gains, and what it costs who is alone: `python -m benchmarks.b_batching [--no-peers]`.

The ideal gain of a model is how many more items a second full batches give than single ones, in a bare loop:
t(1) ÷ (t(B) ÷ B). Ours is what 32 callers at a time get of the pool with batches, over what they get without;
the row is our gain ÷ the ideal one. A pool that is slow without batches would be flattered by that, so
another row has our items a second over those of the bare loop with full batches. What batching costs is the
time of one caller alone, above that of the bare loop, call by call in turns: nobody is waited for, so it is
what the pool itself costs.

The simulated device batches as a GPU does. The real models run on one core, where batches gain little once a
single item keeps the core busy: a perceptron of 23 million weights gains most, because its weights are read
from memory once a batch; a tiny network for small pictures gains what a call's fixed costs are; ResNet-50
computes so much an item that it gains hardly anything, so its ideal is near 1 whoever batches.

Beside it LitServe, with and without batching, its server asked over HTTP by 32 callers: its gain over the
ideal one, and the time that batching adds to a caller alone, who waits as long as it is told to wait.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.method import (
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
    require_quiet,
    write_cases,
)
from benchmarks.peers import environment as peers
from benchmarks.surroundings import DEVICE_CORE, OTHER_CORE, Program, TooSlow, wait_for
from consumer.models.device import Device
from consumer.models.manifest import parse_manifest
from consumer.models.pool import ModelPool
from consumer.models.runner import AnyRunner
from consumer.models.simulated import SimulatedDevice, SimulatedLoader, SimulatedRunner
from pipeline_steps.models import ModelKind
from tests.command import bare_environment
from tests.peers import free_port

CALLERS = 32
BLOCKS = 3
SECONDS = 0.8
"""Of one measurement."""
GAIN, ADDED = Target(least=0.9), Target(most=1.0)
BATCH_TIMEOUT = 0.005
"""Seconds for which LitServe waits for more items."""
_MANIFEST = f"""
models:
- {{name: it, kind: classification, architecture: any, weights: it.safetensors, version: '1',
   classes: [thing], input_size: 64, max_batch: 64, sha256: '{"0" * 64}'}}
"""


@dataclass(frozen=True)
class Model:
    """A model, and how large its batches are."""

    name: str
    batch: int
    make: Callable[[int], tuple[Device, AnyRunner]]
    """With batches of at most so many; and where it runs."""
    item: Callable[[], Any]
    simulated: tuple[float, float] | None = None
    """Seconds a batch takes, and each item adds."""


# ---------------------------------------------------------------------------------------------- the models


def simulated(fixed: float, per_item: float, largest: int) -> tuple[Device, AnyRunner]:
    """A device that sleeps."""
    return SimulatedDevice(), SimulatedRunner(fixed=fixed, per_item=per_item, largest=largest)


class TensorRunner:
    """Answers tensors by a network, many at once."""

    def __init__(self, network: Callable[[Any], Any], largest: int) -> None:
        self._network = network
        self._largest = largest

    def costly(self, item: Any) -> bool:
        """Nothing is prepared."""
        return False

    def prepare(self, item: Any) -> Any:
        """Nothing to do."""
        return item

    def bucket(self, ready: Any) -> Hashable:
        """All have one shape."""
        return None

    def max_batch(self, bucket: Hashable) -> int:
        """As told."""
        return self._largest

    def run(self, batch: Sequence[Any]) -> Sequence[Any]:
        """One forward pass."""
        import torch

        return list(self._network(torch.stack(list(batch))))

    def warm_up(self) -> None:
        """The first round of each side does that."""


def perceptron(largest: int) -> tuple[Device, AnyRunner]:
    """23 million weights in three layers."""
    from torch import nn

    sizes = (1024, 4096, 4096, 512)
    layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
    return _on_cpu(nn.Sequential(*layers), largest)


def tiny(largest: int) -> tuple[Device, AnyRunner]:
    """A few convolutions for pictures of 32 pixels."""
    from torch import nn

    widths = (3, 16, 32, 64)
    blocks = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in pairwise(widths)]
    return _on_cpu(nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)), largest)


def resnet(largest: int) -> tuple[Device, AnyRunner]:
    """ResNet-50 with random weights, laid out as the worker lays networks out."""
    import torch
    from torchvision.models import resnet50

    from consumer.models.folding import fold_normalisations

    network = resnet50().eval()
    fold_normalisations(network)
    return _on_cpu(network.to(memory_format=torch.channels_last), largest)


def _on_cpu(network: Any, largest: int) -> tuple[Device, AnyRunner]:
    import torch

    from consumer.models.torch_device import TorchDevice

    torch.set_num_threads(1)
    return TorchDevice("cpu"), TensorRunner(network.eval().requires_grad_(False), largest)


def _random(*shape: int) -> Any:
    import torch

    return torch.rand(shape)


MODELS = (
    Model("simulated, 8 ms + 0.5 ms an item", 16, partial(simulated, 0.008, 0.0005), int, (0.008, 0.0005)),
    Model("perceptron of 23 M weights", 16, perceptron, partial(_random, 1024)),
    Model("tiny CNN, 32 x 32", 16, tiny, partial(_random, 3, 32, 32)),
    Model("ResNet-50, 96 x 96", 8, resnet, partial(_random, 3, 96, 96)),
)


# -------------------------------------------------------------------------------------------- our pool


class Pool:
    """Our pool with one model, on an event loop of its own thread; the device's thread has core 0."""

    def __init__(self, model: Model, largest: int, resources: ExitStack) -> None:
        self._item = model.item()
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        resources.callback(self._loop.call_soon_threadsafe, self._loop.stop)
        self._device, self._runner = model.make(largest)
        self._pool = self._do(self._open())
        resources.callback(lambda: self._do(self._pool.close()))
        self._do(self._ask())
        put_devices_on_core()

    def items_a_second(self, seconds: float = SECONDS) -> float:
        """Let 32 callers ask one thing after the other."""
        return float(self._do(self._crowd(seconds)))

    def alone(self) -> float:
        """Return the seconds of one call, with nobody else there."""
        return float(self._do(self._one()))

    async def _open(self) -> ModelPool:
        manifest = parse_manifest(_MANIFEST.encode(), base="nowhere")
        pool = ModelPool(manifest, [self._device], SimulatedLoader({"it": self._runner}))
        await pool.start()
        return pool

    async def _ask(self) -> None:
        await self._pool.ask("it", [ModelKind.CLASSIFICATION], [self._item])

    async def _crowd(self, seconds: float) -> float:
        began = time.perf_counter()
        ends: list[float] = []

        async def call() -> None:
            while _goes_on(began, ends, seconds):
                await self._ask()
                ends.append(time.perf_counter())

        await asyncio.gather(*(call() for _ in range(CALLERS)))
        return _rate(began, ends)

    async def _one(self) -> float:
        asked = time.perf_counter()
        await self._ask()
        return time.perf_counter() - asked

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)


def _goes_on(began: float, ends: Sequence[float], seconds: float) -> bool:
    """Tell whether callers go on: for a while, and until each has asked a few times."""
    return time.perf_counter() - began < seconds or len(ends) < 3 * CALLERS


def _rate(began: float, ends: Sequence[float]) -> float:
    """Return the answers a second, without the last of each caller: they shared batches with fewer."""
    steady = ends[:-CALLERS]
    return len(steady) / (steady[-1] - began)


def bare(model: Model, size: int) -> Side:
    """Return the bare loop with batches of this size: milliseconds a batch, in the median."""
    device, runner = model.make(size)
    items = [runner.prepare(model.item()) for _ in range(size)]

    def measure() -> float:
        took: list[float] = []
        on_core(DEVICE_CORE)
        with device.session():
            runner.run(items)
            began = time.perf_counter()
            while time.perf_counter() - began < SECONDS / 2 or len(took) < 3:
                asked = time.perf_counter()
                runner.run(items)
                took.append(time.perf_counter() - asked)
        on_core(OTHER_CORE)
        return 1000 * statistics.median(took)

    return measure


def added(model: Model, pool: Pool) -> Side:
    """Return what the pool adds to a call of the bare loop, in turns: milliseconds, in the median."""
    device, runner = model.make(1)
    items = [runner.prepare(model.item())]

    def measure() -> float:
        more: list[float] = []
        began = time.perf_counter()
        with device.session():
            while time.perf_counter() - began < 2 * SECONDS or len(more) < 10:
                on_core(DEVICE_CORE)
                asked = time.perf_counter()
                runner.run(items)
                alone = time.perf_counter() - asked
                on_core(OTHER_CORE)
                more.append(pool.alone() - alone)
        return 1000 * statistics.median(more)

    return measure


# --------------------------------------------------------------------------------------------- LitServe


class LitServe:
    """A LitServe of its own, asked over HTTP."""

    def __init__(
        self, simulated: tuple[float, float], batch: int, folder: Path, resources: ExitStack
    ) -> None:
        self._port = free_port()
        told = bare_environment(
            MODEL="simulated:{}:{}".format(*simulated),
            PORT=str(self._port),
            BATCH=str(batch),
            BATCH_TIMEOUT=str(BATCH_TIMEOUT if batch > 1 else 0.0),
            PYTHONPATH=str(peers.ROOT),
            OMP_NUM_THREADS="1",
        )
        command = [str(peers.python()), "-m", "benchmarks.peers.litserve_echo"]
        self._program = resources.enter_context(Program.start(f"litserve-{batch}", command, told, folder))
        wait_for(f"http://127.0.0.1:{self._port}/health", self._program)
        self._callers = resources.enter_context(ThreadPoolExecutor(CALLERS))
        self._local = threading.local()
        self._ask()
        self._program.freeze()

    def items_a_second(self) -> float:
        """Let 32 callers ask one thing after the other."""
        began, ends = time.perf_counter(), list[float]()

        def call(_: int) -> None:
            while _goes_on(began, ends, SECONDS):
                self._ask()
                ends.append(time.perf_counter())

        with self._awake():
            list(self._callers.map(call, range(CALLERS)))
        return _rate(began, sorted(ends))

    def alone(self) -> float:
        """Return the median milliseconds of a caller alone."""
        took: list[float] = []
        began = time.perf_counter()
        with self._awake():
            while time.perf_counter() - began < SECONDS or len(took) < 5:
                asked = time.perf_counter()
                self._ask()
                took.append(time.perf_counter() - asked)
        return 1000 * statistics.median(took)

    def _awake(self) -> ExitStack:
        self._program.thaw()
        self._local = threading.local()  # the server closes what was silent for long
        awake = ExitStack()
        awake.callback(self._program.freeze)
        return awake

    def _ask(self) -> None:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        connection = self._local.connection
        connection.request("POST", "/predict", b'{"item": 1}', {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise TooSlow(f"LitServe answered {answer.status}: {answer.read()[:200]!r}")
        json.loads(answer.read())


# ------------------------------------------------------------------------------------------ the comparison


def put_devices_on_core() -> None:
    """Put the threads of devices on their core; all else stays on the other."""
    for thread in threading.enumerate():
        if thread.name.startswith("device-") and thread.native_id is not None:
            os.sched_setaffinity(thread.native_id, {DEVICE_CORE % (os.cpu_count() or 1)})


def measured(model: Model, blocks: int, *, with_peers: bool, busy: bool) -> list[Row]:
    """Measure a model.

    Raises:
        BusyMachine: the bare loop is not as fast as itself, and nobody said `busy`.
    """
    failure = ""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as resources:
        progress(f"{model.name}: starting")
        batched, single = Pool(model, model.batch, resources), Pool(model, 1, resources)
        sides: dict[str, Side] = {
            "bare 1": bare(model, 1),
            "added": added(model, batched),
            "bare B": bare(model, model.batch),
            "batched": batched.items_a_second,
            "single": single.items_a_second,
            "bare 1 again": bare(model, 1),
        }
        if with_peers and model.simulated:
            try:
                theirs, unbatched = (
                    LitServe(model.simulated, batch, Path(folder), resources) for batch in (model.batch, 1)
                )
            except (TooSlow, peers.NoPeers) as error:
                failure = f"; LitServe did not run: {error}"
            else:
                sides |= {
                    "LitServe batched": theirs.items_a_second,
                    "LitServe single": unbatched.items_a_second,
                    "LitServe alone": theirs.alone,
                    "LitServe alone, unbatched": unbatched.alone,
                }
        found = in_turns(
            sides,
            blocks,
            enough=lambda found: is_settled(rows(model, found, failure), itself(found, "bare 1"), busy=busy),
        )
        control = believed(itself(found, "bare 1"), busy=busy)
        return [*rows(model, found, failure), control_row("b", control, model.name)]


def rows(model: Model, found: Measured, failure: str) -> list[Row]:
    """Make rows of what the sides measured."""
    ideal = [t1 * model.batch / t for t1, t in zip(found["bare 1"], found["bare B"], strict=True)]
    shares, gains, more, about = dict[str, float](), dict[str, float](), dict[str, float](), dict[str, str]()
    if "LitServe batched" in found:
        shares["LitServe, with its HTTP"] = median(_of_bare(found, "LitServe batched", model.batch)).value
        gains["LitServe"] = median(_of_ideal(found, "LitServe batched", "LitServe single", ideal)).value
        more["LitServe, with its HTTP"] = median(_less(found, "LitServe alone", "bare 1")).value
        more["LitServe, batching alone"] = median(
            _less(found, "LitServe alone", "LitServe alone, unbatched")
        ).value
        about = peers.versions()
    full = median(found["bare B"]).value / model.batch
    return [
        Row(
            "b", f"{model.name}: gain of batching with {CALLERS} callers ÷ the ideal gain",
            median(_of_ideal(found, "batched", "single", ideal)), GAIN, gains, about,
            f"ideal gain {median(ideal).value:.3g} with batches of {model.batch}; items a second: "
            + ", ".join(f"{name} {median(found[name]).value:.4g}" for name in found if _is_rate(name))
            + f", bare loop of full batches {1000 / full:.4g}{failure}",
        ),
        Row(
            "b", f"{model.name}: median milliseconds that the pool adds to a caller alone",
            median(found["added"]), ADDED, more, about,
            f"bare {median(found['bare 1']).value:.4g} ms",
        ),
        Row(
            "b", f"{model.name}: items a second with {CALLERS} callers ÷ the bare loop's with full batches",
            median(_of_bare(found, "batched", model.batch)), None, shares, about,
        ),
    ]  # fmt: skip


def _of_ideal(found: Measured, many: str, one: str, ideal: Sequence[float]) -> list[float]:
    return [a / b / best for a, b, best in zip(found[many], found[one], ideal, strict=True)]


def _of_bare(found: Measured, name: str, batch: int) -> list[float]:
    """Return each rate over that of full batches, of which the bare loop has told the milliseconds."""
    return [rate * t / 1000 / batch for rate, t in zip(found[name], found["bare B"], strict=True)]


def _less(found: Measured, name: str, base: str) -> list[float]:
    return [a - b for a, b in zip(found[name], found[base], strict=True)]


def _is_rate(name: str) -> bool:
    return name.endswith(("batched", "single")) and "alone" not in name


def main() -> None:
    """Measure what the arguments say."""
    options = parser(__doc__)
    options.add_argument("--only", metavar="TEXT", default="", help="models whose name contains this")
    options.add_argument("--no-peers", action="store_true", help="without LitServe")
    asked = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that what was started is ended
    require_quiet(busy=asked.busy)
    on_core(OTHER_CORE)
    cases = {
        model.name: partial(
            measured, model, asked.blocks or BLOCKS, with_peers=not asked.no_peers, busy=asked.busy
        )
        for model in MODELS
        if asked.only in model.name
    }
    write_cases("b-batching", cases, asked)


if __name__ == "__main__":
    main()
