"""Detection in tiles beside SAHI: `python -m benchmarks.e_tiles`.

Both look at the same photos with the same weights, in the same tiles, with the same merging, each with one
thread of torch on the same core, by turns. Merging alone is measured on boxes as tiles leave them: four or
so for each thing. The simulated device shows what batching gains where, unlike on a CPU, it gains something.

SAHI runs in the peers' environment (`python -m benchmarks.peers` makes it), or in that of `--sahi`, a Python
with sahi, torch, torchvision, segment-anything and safetensors (numba too: SAHI uses it where it is). Without
one only what needs no SAHI is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch

import consumer.local
from benchmarks.method import (
    BLOCKS,
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
    ratio,
    require_quiet,
    write,
)
from benchmarks.peers.environment import PYTHON, is_ready
from benchmarks.processes import line
from consumer.local.scenes import demo_photo
from consumer.models.manifest import load_manifest, parse_manifest
from consumer.models.pool import ModelPool
from consumer.models.simulated import SimulatedDevice, SimulatedLoader, SimulatedRunner
from consumer.models.torch_loader import torch_pool
from consumer.ops.allocator import bound_allocator
from pipeline_steps.artifacts import Detections, Image, Pixels
from pipeline_steps.geometry import overlaps
from pipeline_steps.models import LocalBoxes, Models
from pipeline_steps.vision.merging import merged
from pipeline_steps.vision.sahi_detection import SahiDetectionParams, detect_in_tiles
from tests.pipeline_steps.fakes import context

MODELS = Path(consumer.local.__file__).parent / "models"
SIDES = {12: (3000, 4000), 48: (6000, 8000)}
PHOTO_BLOCKS = {12: 2, 48: 1}
SAHI_BATCHES = {12: (1, 8), 48: (1,)}
"""SAHI's `batch_size`; for a torchvision network it changes nothing, and at 48 megapixels that takes long."""
GRADIENTS = "SAHI records gradients meanwhile: for torchvision's networks it does not turn that off"
MERGED = (1_000, 10_000, 30_000)
FIXED, PER_TILE, BATCH = 0.008, 0.0005, 8
"""A device that takes 8 ms a batch and half a millisecond a tile: a batch of 8 gains 5.7."""


def photo(height: int, width: int) -> Pixels:
    """Return a photo made of nursery scenes of a megapixel each, so that every tile has plants."""
    scenes = [demo_photo(seed, 1000, 1000).pixels for seed in range(6)]
    rows = [
        np.concatenate([scenes[(row + column) % 6] for column in range(width // 1000)], axis=1)
        for row in range(height // 1000)
    ]
    return np.concatenate(rows)


def crowd(count: int) -> npt.NDArray[np.float32]:
    """Return boxes (n, 6) with score and class, about four for each thing, as overlapping tiles see it."""
    rng = np.random.default_rng(0)
    things = count // 4
    field = np.sqrt(things) * 60
    middle, side = rng.uniform(0, field, (things, 2)), rng.uniform(20, 60, (things, 2))
    which = np.repeat(np.arange(things), 4)
    middle = middle[which] + rng.normal(0, 3, (len(which), 2))
    side = side[which] * rng.uniform(0.8, 1.2, (len(which), 2))
    xyxy = np.concatenate([middle - side / 2, middle + side / 2], axis=1).clip(0)
    return np.column_stack([xyxy, rng.uniform(0.1, 1, len(which)), np.zeros(len(which))]).astype(np.float32)


async def detected(models: Models, pixels: Pixels) -> Detections:
    """Run the step as it is by default: tiles of 512, a quarter shared, `greedynmm` by `ios` from 0.5."""
    return await detect_in_tiles(
        Image(pixels), None, None, SahiDetectionParams(model="plants"), context(models)
    )


class Sahi:
    """SAHI's process."""

    def __init__(self, python: str) -> None:
        plants = load_manifest(MODELS).models["plants"]
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.sahi_side", str(MODELS / plants.weights), str(plants.threshold)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        self._questions = cast(IO[str], self._process.stdin)
        self.about = self._answer()

    def ask(self, **what: object) -> tuple[float, list[list[float]]]:
        """Return the seconds it took, and its answer."""
        print(json.dumps(what), file=self._questions, flush=True)
        seconds, found = self._answer()
        return seconds, found

    @property
    def process_id(self) -> int:
        """Of the process."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self) -> Any:
        return json.loads(line(self._process, "SAHI"))


@contextmanager
def pool() -> Iterator[tuple[asyncio.Runner, ModelPool]]:
    """Yield the demo models, warm, and the loop they live in."""
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as cache:
        models = torch_pool(load_manifest(MODELS), ["cpu"], cache=Path(cache))
        torch.set_num_threads(1)
        runner.run(models.start())
        yield runner, models
        runner.run(models.close())


def each(work: Callable[[], object], seconds: float = 0.3) -> float:
    """Return the seconds it takes, on average over a block of that many."""
    began, times = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        work()
        times += 1
    return (time.perf_counter() - began) / times


def photos_beside(sahi: Sahi, folder: Path, options: argparse.Namespace) -> list[Row]:
    """Whole photos: how many times as fast, and whether the same is found."""
    rows: list[Row] = []
    with pool() as (runner, models):
        for megapixels in SIDES:
            rows += photo_beside(
                megapixels, sahi, lambda pixels: runner.run(detected(models, pixels)), options, folder
            )
    return rows


def photo_beside(
    megapixels: int,
    sahi: Sahi,
    detect: Callable[[Pixels], Detections],
    options: argparse.Namespace,
    folder: Path,
) -> list[Row]:
    """One photo; with the smallest one ours is measured against itself too."""
    pixels, file = photo(*SIDES[megapixels]), folder / f"{megapixels}.npy"
    np.save(file, pixels)
    is_first = megapixels == min(SIDES)
    batches = {f"SAHI, batch {size}": size for size in SAHI_BATCHES[megapixels]}
    found = Detections.none()
    answers: dict[str, list[list[float]]] = {}

    def ours() -> float:
        nonlocal found
        began = time.perf_counter()
        found = detect(pixels)
        return time.perf_counter() - began

    def theirs(side: str) -> float:
        seconds, answers[side] = sahi.ask(do="detect", photo=str(file), batch=batches[side])
        return seconds

    def best(seconds: Measured) -> str:
        return min(batches, key=lambda side: median(seconds[side]).value)

    def speed(seconds: Measured) -> Row:
        return Row(
            "e",
            f"{megapixels} MP in tiles: times as fast as {best(seconds)}",
            ratio(seconds[best(seconds)], seconds["ours"]),
            Target(least=1.6),
            {f"{side}, s": median(seconds[side]).value for side in ("ours", *batches)},
            sahi.about,
            GRADIENTS,
        )

    def control(seconds: Measured) -> Figure | None:
        return itself(seconds, "ours") if is_first else None

    sides: dict[str, Side] = {"ours": ours, **{side: partial(theirs, side) for side in batches}}
    if is_first:
        sides["ours again"] = ours
    seconds = in_turns(
        sides,
        options.blocks or PHOTO_BLOCKS[megapixels],
        warm=not is_first,  # by the smaller photo
        enough=lambda seconds: is_settled([speed(seconds)], control(seconds), busy=options.busy),
    )
    same_twice = control(seconds)
    boxes = np.array(answers[best(seconds)], np.float32).reshape(-1, 5)
    return [
        *([control_row("e", believed(same_twice, busy=options.busy))] if same_twice else []),
        speed(seconds),
        Row(
            "e",
            f"{megapixels} MP in tiles: share of detections that are SAHI's",
            exactly(agreement(found, boxes)),
            Target(least=1.0),
            {"found": float(len(found)), "SAHI found": float(len(boxes))},
            sahi.about,
            "IoU at least 0.99, scores at most 0.001 apart",
        ),
    ]


def agreement(found: Detections, theirs: npt.NDArray[np.float32]) -> float:
    """Return the share of all boxes, ours and theirs, that have a partner on the other side."""
    same = overlaps(found.xyxy, theirs[:, :4]) >= 0.99
    same &= np.abs(found.score[:, None] - theirs[:, 4]) <= 1e-3
    paired = int(same.any(axis=0).sum() + same.any(axis=1).sum())
    return paired / max(1, len(found) + len(theirs))


def merging_beside(sahi: Sahi, folder: Path, options: argparse.Namespace) -> list[Row]:
    """Merging alone."""
    rows = []
    for count in MERGED:
        columns = crowd(count)
        file = folder / f"boxes{count}.npy"
        np.save(file, columns)
        boxes = LocalBoxes(columns[:, :4], columns[:, 4], np.full(len(columns), "plant"))

        def ours(boxes: LocalBoxes = boxes) -> LocalBoxes:
            return merged(boxes, "greedynmm", "ios", 0.5)

        seconds = in_turns(
            {
                "ours": lambda ours=ours: each(ours),
                "SAHI": lambda file=file: sahi.ask(do="merge", boxes=str(file))[0],
            },
            options.blocks or BLOCKS,
            enough=lambda seconds, count=count: is_settled([merging_row(count, seconds, sahi)]),
        )
        left = ours()
        theirs = np.array(sahi.ask(do="merge", boxes=str(file))[1], np.float32).reshape(-1, 5)
        rows += [
            merging_row(count, seconds, sahi),
            Row(
                "e",
                f"merging {count} boxes: share of what is left that is left by SAHI too",
                exactly(in_both(np.column_stack([left.xyxy, left.score]), theirs)),
                Target(least=1.0),
                {"found": float(len(left)), "SAHI found": float(len(theirs))},
                sahi.about,
                "each number of a box and its score the same",
            ),
        ]
    return rows


def merging_row(count: int, seconds: Measured, sahi: Sahi) -> Row:
    """Make the row of both sides' seconds."""
    return Row(
        "e",
        f"merging {count} boxes: times as fast as SAHI",
        ratio(seconds["SAHI"], seconds["ours"]),
        Target(least=20) if count == 10_000 else None,
        {f"{side}, ms": 1000 * median(seconds[side]).value for side in seconds},
        sahi.about,
    )


def in_both(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> float:
    """Return the share of all rows, ours and theirs, that the other side has too, as often."""
    mine, others = (Counter(map(tuple, rows.tolist())) for rows in (ours, theirs))
    return 2 * (mine & others).total() / max(1, mine.total() + others.total())


def batching(options: argparse.Namespace) -> list[Row]:
    """Share of what batching can gain that it does gain, on a device that only takes time."""
    ideal = (FIXED + PER_TILE) * BATCH / (FIXED + PER_TILE * BATCH)
    rows = []
    for at_once in (1, 4):
        gains = [simulated(at_once) / ideal for _ in range(options.blocks or BLOCKS)]
        rows.append(
            Row(
                "e",
                f"simulated device, {at_once} photo(s) of 12 MP at once: share of the ideal gain",
                median(gains),
                Target(least=0.9),
                {"one by one": 1 / ideal},
                note=f"ideal is {ideal:.2f} times as fast as one by one, which is how SAHI passes tiles to a "
                "torchvision model, whatever its batch_size; that side is computed, not measured",
            )
        )
    return rows


def simulated(at_once: int) -> float:
    """Return how many times as fast tiles are answered as one by one."""
    nothing = LocalBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.str_))
    runner = SimulatedRunner(lambda _: nothing, fixed=FIXED, per_item=PER_TILE, largest=BATCH)
    manifest = parse_manifest(
        b"models: [{name: plants, kind: detection, architecture: x, weights: x.pt, version: '1', "
        b"sha256: '" + b"0" * 64 + b"', classes: [plant], input_size: 640}]",
        base="",
    )
    pixels = np.zeros((*SIDES[12], 3), np.uint8)

    async def run() -> float:
        models = ModelPool(manifest, [SimulatedDevice()], SimulatedLoader({"plants": runner}))
        await models.start()
        began = time.perf_counter()
        jobs = [models.for_job(number, "t") for number in range(at_once)]
        await asyncio.gather(*(detected(job, pixels) for job in jobs))
        seconds = time.perf_counter() - began
        await models.close()
        return seconds

    seconds = asyncio.run(run())
    tiles = sum(len(batch) for batch in runner.batches)
    return tiles * (FIXED + PER_TILE) / seconds


def exactly(value: float) -> Figure:
    """Return a figure that was counted, not timed."""
    return Figure(value, value, value)


def add_sahi(words: argparse.ArgumentParser) -> None:
    """Add the option that says where SAHI is."""
    words.add_argument(
        "--sahi",
        metavar="PYTHON",
        default=str(PYTHON) if is_ready() else None,
        help="the Python of an environment with sahi (default: the peers' environment, if it was made)",
    )


def main() -> None:
    """Measure, and write what was measured."""
    words = parser(__doc__)
    add_sahi(words)
    options = words.parse_args()
    require_quiet(busy=options.busy)
    on_core(0)
    bound_allocator()  # as `mlworker run` does
    torch.set_num_threads(1)
    rows = batching(options)
    if not options.sahi:
        print("without SAHI: python -m benchmarks.peers installs it", file=sys.stderr)
    else:
        with Sahi(options.sahi) as sahi, tempfile.TemporaryDirectory() as folder:
            rows += merging_beside(sahi, Path(folder), options)
            rows += photos_beside(sahi, Path(folder), options)
    write("e-tiles", rows, options)


if __name__ == "__main__":
    main()
