"""What grows with what: `python -m benchmarks.i_growth [--only boxes]`.

Each kind of work is done once, ten times and a hundred times as much, with the product's own code:

- `messages`: a worker's process gets a message every two seconds, 5 and 50 a second: broker, bucket, a
  pipeline on a simulated device, result, callback, ack. What it costs when nothing comes is taken off.
- `tenants`: the same worker empties a backlog of 200 messages, of 1, 10 and 100 tenants by turns: the work
  stays the same, so that nothing but the number of tenants grows.
- `pixels`: JPEGs of 0.48, 4.8 and 48 megapixels are decoded.
- `tiles`: pictures of these sizes are cut into tiles, a device that only pretends answers eight boxes for
  each tile, and these are merged.
- `boxes`: 1 000, 10 000 and 100 000 boxes are merged, on a field that grows with them.
- `chain`, `group`: 5, 50 and 500 elements (at most 512 are allowed) that do nothing are parsed and run.
- `queue`: items of 1, 10 and 100 tenants wait for a device, 16 of each, and are taken in batches of 8.

What is measured is CPU time, which others on the machine change little: all threads of the process that does
the work. A figure is what one unit (a message, a megapixel, a box ...) costs when there are a hundred times
as many, over what it costs at first; over 1 means that cost grows faster than the work.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast
from uuid import uuid4

import numpy as np

from benchmarks.e_tiles import crowd, photo
from benchmarks.method import (
    Curve,
    Figure,
    Measured,
    Row,
    Target,
    control_row,
    controlled,
    in_turns,
    is_settled,
    median,
    parser,
    ratio,
    require_quiet,
    write,
)
from benchmarks.surroundings import (
    DEAD_LETTERS,
    RESULTS,
    Line,
    Program,
    Surroundings,
    as_json,
    wait_for,
)
from consumer.models.manifest import parse_manifest
from consumer.models.pool import ModelPool
from consumer.models.simulated import SimulatedDevice, SimulatedLoader, SimulatedRunner
from consumer.pipeline.execute import execute
from consumer.pipeline.parse import parse
from consumer.pipeline.run import Run
from consumer.pixel_buffers import PixelBuffers
from contracts.pipeline import GroupDefinition, PipelineDefinition, StepDefinition
from pipeline_steps.artifact import Artifacts
from pipeline_steps.artifacts import Detections, Image, Pixels
from pipeline_steps.context import Deadline, JobInfo, TenantStore
from pipeline_steps.image.encode import encode_jpeg
from pipeline_steps.image.intake import read_image
from pipeline_steps.models import LocalBoxes, Models
from pipeline_steps.registry import StepRegistry, step
from pipeline_steps.vision.merging import merged
from pipeline_steps.vision.sahi_detection import SahiDetectionParams, detect_in_tiles
from tests.command import COMMAND
from tests.peers import free_port
from tests.pipeline_steps.fakes import context

BLOCKS = 4
FACTORS = (1, 10, 100)
PHOTOS = {1: (600, 800), 10: (2000, 2400), 100: (6000, 8000)}
MOST = 1.1
"""Of a unit's cost at a hundred times the work, over its cost at first."""
SECONDS = {1: 8.0, 10: 4.0, 100: 4.0}
"""Of each rate of messages: of the lowest four come."""
REST = 4.0
A_SECOND, BACKLOG = 0.5, 200
TENANT_BYTES = 8
NOTHING = LocalBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.str_))
_CPU_OF_PROCESS = 2
"""In a clock's number, below the process: what it has used, of all its threads."""

Cost = Callable[[int], float]
"""CPU seconds of one unit, when there is so many times the work."""


class Growing(NamedTuple):
    """One kind of work."""

    what: str
    across: str
    """What grows, with its unit."""
    first: float
    """How much of it there is at first."""
    unit: str
    """What the cost is of."""
    blocks: int


KINDS = {
    "messages": Growing("messages a second", "messages a second", A_SECOND, "message", 2),
    "tenants": Growing("tenants that send messages", "tenants", 1, "message", 2),
    "pixels": Growing("pixels that are decoded", "megapixels", 0.48, "megapixel", BLOCKS),
    "tiles": Growing("pixels that are looked at in tiles", "megapixels", 0.48, "megapixel", BLOCKS),
    "boxes": Growing("boxes that are merged", "boxes", 1_000, "box", BLOCKS),
    "chain": Growing("elements of a chain", "elements", 5, "element", BLOCKS),
    "group": Growing("branches of a group", "elements", 5, "element", BLOCKS),
    "queue": Growing("tenants that wait for a device", "tenants", 1, "item", BLOCKS),
}


def each(work: Callable[[], object], seconds: float = 0.2) -> float:
    """Return the CPU seconds it takes, on average over at least so many."""
    began, times = time.process_time(), 0
    while (spent := time.process_time() - began) < seconds:
        work()
        times += 1
    return spent / times


# -------------------------------------------------------------------------------------------- pictures, boxes


def megapixels(factor: int) -> float:
    """Return how many a photo has."""
    height, width = PHOTOS[factor]
    return height * width / 1e6


@cache
def picture(factor: int) -> Pixels:
    """Return a photo of that size, each part of it like the others."""
    height, width = PHOTOS[factor]
    return np.ascontiguousarray(photo(6000, 8000)[:height, :width])


@cache
def file(factor: int) -> bytes:
    """Return it as a JPEG."""
    return encode_jpeg(picture(factor), 88)


def decoded(factor: int) -> float:
    """Decode a photo, into memory that is used again as the worker does; of each megapixel."""
    data, buffers = file(factor), PixelBuffers()
    decode = partial(read_image, data, max_pixels=1 << 30, name="photo", memory=buffers.take)
    return each(decode) / megapixels(factor)


class Forgetful(SimulatedRunner):
    """One that keeps no account of its batches: what it keeps would be measured too."""

    def run(self, batch: Sequence[Any]) -> list[Any]:
        """Answer."""
        self.batches.clear()
        return super().run(batch)


@asynccontextmanager
async def plants(found: LocalBoxes) -> AsyncIterator[ModelPool]:
    """Yield a pool whose device takes no time, and whose one model always finds this."""
    manifest = parse_manifest(
        b"models: [{name: plants, kind: detection, architecture: x, weights: x.pt, version: '1', "
        b"sha256: '" + b"0" * 64 + b"', classes: [plant], input_size: 640}]",
        base="",
    )
    loader = SimulatedLoader({"plants": Forgetful(lambda _: found)})
    pool = ModelPool(manifest, [SimulatedDevice()], loader)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def looked_at(factor: int) -> float:
    """Look at a photo in tiles, without a network; of each megapixel."""
    image, params = Image(picture(factor)), SahiDetectionParams(model="plants")

    async def spent() -> float:
        async with plants(found_boxes(8)) as pool:
            models = context(pool.for_job(1, "acme"))
            began, times = time.process_time(), 0
            while time.process_time() - began < 0.2:
                await detect_in_tiles(image, None, None, params, models)
                times += 1
            return (time.process_time() - began) / times

    return asyncio.run(spent()) / megapixels(factor)


@cache
def found_boxes(count: int) -> LocalBoxes:
    """Return boxes as overlapping tiles see them."""
    columns = crowd(count)
    return LocalBoxes(columns[:, :4], columns[:, 4], np.full(count, "plant"))


def merging(factor: int) -> float:
    """Merge boxes; of each box."""
    boxes = found_boxes(1000 * factor)
    return each(lambda: merged(boxes, "greedynmm", "ios", 0.5)) / len(boxes)


# -------------------------------------------------------------------------------------------------- pipelines

STEPS = StepRegistry()


@step("nothing", registry=STEPS)
async def nothing(image: Image) -> Detections:
    """Find nothing."""
    del image
    return Detections.none()


def elements(definition: PipelineDefinition, count: int) -> float:
    """Parse a definition of so many elements and run it; of each element."""
    body = definition.model_dump_json().encode()
    seen = Artifacts.of(Image(np.zeros((8, 8, 3), np.uint8)))

    with ThreadPoolExecutor(1) as threads, asyncio.Runner() as runner:

        def work() -> None:
            pipeline = parse(PipelineDefinition.model_validate_json(body), STEPS)
            run = Run(
                JobInfo("acme", "session", "image"),
                cast(Models, None),
                cast(TenantStore, None),
                Deadline.after(60),
                threads,
            )
            runner.run(execute(pipeline.root, seen, run))

        return each(work) / count


def chained(factor: int) -> float:
    """Run one after the other."""
    steps = tuple(StepDefinition(name="nothing") for _ in range(5 * factor))
    return elements(PipelineDefinition(steps=steps), len(steps))


def grouped(factor: int) -> float:
    """Run side by side."""
    steps = tuple(StepDefinition(name="nothing") for _ in range(5 * factor))
    return elements(PipelineDefinition(steps=(GroupDefinition(steps=steps),)), len(steps))


# ---------------------------------------------------------------------------------------------------- tenants


async def asked(pool: ModelPool, tenants: Sequence[str]) -> None:
    """Ask for 16 items of each tenant at once."""
    item = np.zeros((8, 8, 3), np.uint8)
    await asyncio.gather(*(pool.for_job(1, tenant).detect("plants", [item] * 16) for tenant in tenants))


def queued(factor: int) -> float:
    """Let tenants wait for a device and be served; of each item."""

    async def spent() -> float:
        async with plants(NOTHING) as pool:
            began, times = time.process_time(), 0
            while time.process_time() - began < 0.2:
                await asked(pool, [f"tenant {number}" for number in range(factor)])
                times += 1
            return (time.process_time() - began) / times

    return asyncio.run(spent()) / (16 * factor)


def left_behind(tenants: int = 5000) -> Row:
    """Return the bytes each of many tenants leaves behind in the pool once it is gone."""

    async def kept() -> float:
        async with plants(NOTHING) as pool:
            for number in range(2000):  # until what is remembered on purpose is full
                await asked(pool, [f"first {number}"])
            gc.collect()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for number in range(tenants):
                await asked(pool, [f"then {number}"])
            gc.collect()
            after = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            return (after - before) / tenants

    value = asyncio.run(kept())
    return Row(
        "i",
        f"bytes each of {tenants} tenants leaves behind in the pool",
        Figure(value, value, value),
        Target(most=TENANT_BYTES),
        note="after 2000 others; a name alone takes more than 50",
    )


# ----------------------------------------------------------------------------------------- a worker's process


class Served:
    """A worker's process between a broker, a bucket and a backend."""

    def __init__(self, around: Surroundings, worker: Program, line: Line) -> None:
        self._around, self._worker, self._line = around, worker, line
        self._photo = encode_jpeg(np.full((48, 64, 3), 120, np.uint8), 88)
        self._photos: dict[str, str] = {}
        self._sent = 0
        self._idle = 0.0

    def rest(self) -> None:
        """Measure what it costs when nothing comes."""
        before, began = self._spent(), time.monotonic()
        time.sleep(REST)
        self._idle = (self._spent() - before) / (time.monotonic() - began)

    def at_rate(self, factor: int) -> float:
        """Send messages at a steady rate; of each."""
        count = int(A_SECOND * factor * SECONDS[factor])
        return self._spent_on(["acme"] * count, SECONDS[factor] / count)

    def of_tenants(self, factor: int) -> float:
        """Send a backlog of so many tenants at once; of each message."""
        return self._spent_on([f"tenant-{number % factor}" for number in range(BACKLOG)], 0.0)

    def _spent_on(self, tenants: Sequence[str], pause: float) -> float:
        bodies = [self._request(tenant) for tenant in tenants]
        before, began = self._spent(), time.monotonic()
        for number, body in enumerate(bodies):
            time.sleep(max(0.0, began + number * pause - time.monotonic()))
            self._line.send([body])
        self._sent += len(bodies)
        self._line.until_acked(self._sent, self._check)
        resting = self._idle * (time.monotonic() - began)
        return (self._spent() - before - resting) / len(bodies)

    def _check(self) -> None:
        """Return if all goes well: a message that fails costs something else."""
        self._worker.check()
        letter = self._around.acks.published.get(DEAD_LETTERS)
        if letter is not None:
            raise RuntimeError(f"a message failed: {letter.attributes}; {self._worker.said()}")

    def _request(self, tenant: str) -> bytes:
        if tenant not in self._photos:
            self._photos[tenant] = self._around.upload(f"{tenant}/originals/a.jpg", self._photo)
        return as_json(
            tenant_id=tenant,
            session_id=str(uuid4()),
            image_id=str(uuid4()),
            image_url=self._photos[tenant],
            pipeline_definition={
                "steps": [{"type": "step", "name": "detection", "kwargs": {"model": "plants"}}]
            },
        )

    def _spent(self) -> float:
        """Return the CPU seconds of the process, also of threads that have ended."""
        return time.clock_gettime(~self._worker.popen.pid << 3 | _CPU_OF_PROCESS)


@contextmanager
def served() -> Iterator[Served]:
    """Start a worker and all it needs."""
    with Surroundings() as around, tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        line = around.subscribe("growth")
        port = free_port()
        environment = around.environment(
            SUBSCRIPTION="growth",
            RESULTS_TOPIC=RESULTS,
            DEAD_LETTER_TOPIC=DEAD_LETTERS,
            DEVICES="simulated",
            MODEL_PATH="demo",
            PORT=str(port),
        )
        command = [str(COMMAND), "run"]
        worker = closing.enter_context(Program.start("worker", command, environment, Path(folder)))
        wait_for(f"http://127.0.0.1:{port}/readyz", worker)
        found = Served(around, worker, line)
        found.of_tenants(10)  # to warm up
        found.rest()
        yield found


def grown(kind: str, cost: Cost, options: argparse.Namespace) -> Row:
    """Measure one kind of work at all its sizes."""
    growing = KINDS[kind]
    seconds = in_turns(
        {str(factor): lambda factor=factor: cost(factor) for factor in FACTORS},
        options.blocks or growing.blocks,
        warm=kind == "messages",  # as `served` leaves it
        enough=lambda seconds: is_settled([row(growing, seconds)]),
    )
    return row(growing, seconds)


def row(growing: Growing, seconds: Measured) -> Row:
    """Make the row of a kind of work of its seconds a unit, by how many times the work there was."""
    micros = {factor: median(seconds[str(factor)]).value * 1e6 for factor in FACTORS}
    return Row(
        "i",
        f"{growing.what}: the cost of each {growing.unit} at 100 times the work ÷ at first",
        ratio(seconds["100"], seconds["1"]),
        Target(most=MOST),
        note=", ".join(
            f"{growing.first * factor:g} {growing.across}: {micros[factor]:.3g} µs" for factor in FACTORS
        ),
        curve=Curve(
            growing.across,
            f"CPU time of each {growing.unit}, µs",
            {"measured": [(growing.first * factor, micros[factor]) for factor in FACTORS]},
        ),
    )


def main() -> None:
    """Measure, and write what was measured."""
    words = parser(__doc__)
    words.add_argument("--only", choices=[*KINDS, "memory"], help="only this kind of work")
    options = words.parse_args()
    require_quiet(busy=options.busy)
    gc.collect()
    gc.freeze()  # what was imported is not looked through again and again, whatever the size of the work
    wanted = {options.only} if options.only else {*KINDS, "memory"}
    costs: dict[str, Cost] = {
        "pixels": decoded, "tiles": looked_at, "boxes": merging, "chain": chained, "group": grouped,
        "queue": queued,
    }  # fmt: skip
    rows = [grown(kind, cost, options) for kind, cost in costs.items() if kind in wanted]
    if "boxes" in wanted:
        same_twice = controlled(lambda: merging(1), options.blocks or BLOCKS, busy=options.busy)
        rows.append(control_row("i", same_twice))
    if "memory" in wanted:
        rows.append(left_behind())
    if rows:
        write("i-growth", rows, options)
    if wanted & {"messages", "tenants"}:
        with served() as worker:
            costs = {"messages": worker.at_rate, "tenants": worker.of_tenants}
            rows = [grown(kind, cost, options) for kind, cost in costs.items() if kind in wanted]
        write("i-growth-of-a-worker", rows, options)


if __name__ == "__main__":
    main()
