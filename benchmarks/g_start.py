"""How soon a worker is ready, and what its first message waits: `python -m benchmarks.g_start`.

From the start of the process `mlworker run` to the first time /readyz says yes, between the same broker,
bucket and backend as the other benchmarks. Beside it, by turns, `g_naive.py`: the same models loaded and
warmed up with the same inputs as the libraries' own pages have it, until it says `ready`; it has no probes,
no storage and no backend to open. Both find their files in the page cache, each has all cores, and each
computes with one thread.

Two cases: the packaged models; and a SAM of ViT-B's size with random weights, in the original checkpoint's
format, with the warm-up left for afterwards (`WARM_UP=after_ready`), the other without any. With `--whole` a
third alone: the same SAM warmed up first, which takes a start half a minute.

The first message's latency is measured on workers that have just said that they are ready, over the median
of those that follow one by one.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import uuid4

from benchmarks.method import (
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
    parser,
    ratio,
    require_quiet,
    write,
)
from benchmarks.surroundings import START_LIMIT, Line, Program, Surroundings, TooSlow, as_json
from consumer.local.scenes import demo_photo
from consumer.models.opening import models_folder
from pipeline_steps.image.encode import encode_jpeg
from tests.command import COMMAND
from tests.peers import free_port

BLOCKS = 3
FEWER = 1
"""Of the case in which a start takes half a minute; the one before it has read the same files."""
FOLLOWING = 8
"""Messages after the first."""
_LOOK = 0.003


@dataclass(frozen=True, slots=True)
class Case:
    """What is loaded, and whether readiness waits for the warm-up."""

    name: str
    folder: Path
    warms_up: bool
    least: float
    """The ratio it should reach."""
    most: float | None = None
    """The seconds it should take."""
    is_long: bool = False


@dataclass
class Starts:
    """Starts workers and their naive counterparts."""

    around: Surroundings
    case: Case
    line: Line
    folder: Path
    photo: str
    phases: list[Mapping[str, float]] = field(default_factory=list)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of processor time of each side's starts."""
    first: list[float] = field(default_factory=list)
    """Seconds of the first message over those of the following ones, for each worker that got some."""

    def ours(self, *, sends: bool = False) -> float:
        """Start `mlworker run` and return the seconds until it is ready."""
        port = free_port()
        environment = self.around.environment(
            PORT=str(port),
            DEVICES="cpu",
            SUBSCRIPTION=self.line.subscription,
            RESULTS_TOPIC="results",
            DEAD_LETTER_TOPIC="dead-letters",
            MODEL_PATH=str(self.case.folder),
            WARM_UP="before_ready" if self.case.warms_up else "after_ready",
        )
        with Program.start("ours", [str(COMMAND), "run"], environment, self.folder) as program:
            seconds = self._until(lambda: _is_ready(port), program)
            self.phases.append(_phases(program.log))
            if sends:
                self.first.append(self._first_message(program))
        return seconds

    def naive(self) -> float:
        """Start the naive counterpart and return the seconds until it says that it is ready."""
        warms_up = "yes" if self.case.warms_up else "no"
        command = [sys.executable, "-m", "benchmarks.g_naive", str(self.case.folder), warms_up]
        with Program.start("naive", command, self.around.environment(), self.folder) as program:
            return self._until(lambda: "ready" in program.log.read_text().split(), program)

    def _until(self, is_ready: Callable[[], bool], program: Program) -> float:
        began = time.perf_counter()
        while not is_ready():
            program.check()
            if time.perf_counter() - began > START_LIMIT:
                raise TooSlow(f"{program.name} was not ready after {START_LIMIT:g} s: {program.said()}")
            time.sleep(_LOOK)
        seconds = time.perf_counter() - began
        self.cpu.setdefault(program.name, []).append(program.seconds())
        return seconds

    def _first_message(self, program: Program) -> float:
        first, *following = (self._latency(program) for _ in range(1 + FOLLOWING))
        return first / statistics.median(following)

    def _latency(self, program: Program) -> float:
        """Send a message and return the seconds until it is acked."""
        body = as_json(
            tenant_id="acme",
            session_id=str(uuid4()),
            image_id=str(uuid4()),
            image_url=self.photo,
            pipeline_definition={
                "steps": [{"type": "step", "name": "detection", "kwargs": {"model": "plants"}}]
            },
        )
        self.line.acked.clear()
        began = time.perf_counter()
        self.line.send([body])
        return self.line.until_acked(1, program.check)[0] - began


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _phases(log: Path) -> Mapping[str, float]:
    """What the worker says of its start."""
    for said in log.read_text().splitlines():
        if '"message":"started"' in said:
            found: Mapping[str, float] = json.loads(said)["seconds"]
            return found
    raise RuntimeError(f"{log}: expected a line that says `started`")


def vit_b(folder: Path) -> Path:
    """Write a SAM of ViT-B's size with random weights, as its authors publish theirs, and its manifest."""
    import torch
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    file = folder / "sam_vit_b.pth"
    torch.save(sam_model_registry["vit_b"]().state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "models.yaml").write_text(
        f"models:\n- {{name: sam, kind: sam, architecture: vit_b, weights: {file.name}, sha256: {digest}, "
        "version: '1', input_size: 1024, max_batch: 1}\n"
    )
    return folder


def measure(starts: Starts, blocks: int, *, busy: bool) -> list[Row]:
    """Measure one case."""
    case = starts.case
    sends = case.name == "packaged models"
    sides: dict[str, Side] = {"ours": partial(starts.ours, sends=sends), "naive": starts.naive}
    if sends:
        sides["ours again"] = partial(starts.ours, sends=True)

    def control(seconds: Measured) -> Figure | None:
        return itself(seconds, "ours") if sends else None

    seconds = in_turns(
        sides,
        blocks,
        warm=case.is_long,
        enough=lambda seconds: is_settled(compared(starts, seconds), control(seconds), busy=busy),
    )
    rows = compared(starts, seconds)
    if (same_twice := control(seconds)) is not None:
        first = median(starts.first)
        rows += [
            control_row("g", believed(same_twice, busy=busy)),
            Row("g", "first message ÷ median of the following", first, Target(most=1.1)),
        ]
    return rows


def compared(starts: Starts, seconds: Measured) -> list[Row]:
    """Make rows of the seconds of both sides' starts."""
    case = starts.case
    ours, naive = median(seconds["ours"]), median(seconds["naive"])
    cpu = {side: statistics.median(spent) for side, spent in starts.cpu.items()}
    phases = {
        name: statistics.median(start[name] for start in starts.phases if name in start)
        for name in starts.phases[-1]
    }
    parts = ", ".join(f"{name} {spent:.2f}" for name, spent in phases.items())
    return [
        Row(
            "g",
            f"{case.name}: naive start ÷ ours",
            ratio(seconds["naive"], seconds["ours"]),
            Target(least=case.least),
            note="exec to ready; page cache warm for both; seconds of processor time: "
            f"naive {cpu['naive']:.2f}, ours {cpu['ours']:.2f}",
        ),
        Row(
            "g",
            f"{case.name}: seconds from exec to ready",
            ours,
            Target(most=case.most) if case.most else None,
            {"naive": naive.value},
            note=f"seconds of the parts, some of which go on at the same time: {parts}",
        ),
    ]


def main() -> None:
    """Measure all cases, and write what was measured."""
    options = parser(__doc__)
    options.add_argument("--only", choices=("packaged", "vit_b"), help="one of the models")
    options.add_argument("--whole", action="store_true", help="ViT-B's size with its warm-up, and only that")
    chosen = options.parse_args()
    require_quiet(busy=chosen.busy)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # whoever was started is ended too
    with tempfile.TemporaryDirectory() as name, Surroundings() as around:
        # The peers stay on their core; who starts has all of them.
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        write("g-start-whole" if chosen.whole else "g-start", rows(Path(name), around, chosen), chosen)


def rows(folder: Path, around: Surroundings, chosen: argparse.Namespace) -> list[Row]:
    """Measure the cases that were chosen."""
    large = folder / "vit_b"
    large.mkdir()
    cases = []
    if chosen.only != "vit_b" and not chosen.whole:
        packaged = shutil.copytree(models_folder("demo"), folder / "packaged")
        cases.append(Case("packaged models", packaged, warms_up=True, least=1.5))
    if chosen.only != "packaged":
        vit_b(large)
        if chosen.whole:
            cases.append(Case("ViT-B-sized SAM", large, warms_up=True, least=1.5, is_long=True))
        else:
            cases.append(
                Case("ViT-B-sized SAM, warm-up afterwards", large, warms_up=False, least=1.5, most=2.5)
            )
    work = around.subscribe("starts")
    photo = around.upload("acme/a.jpg", encode_jpeg(demo_photo(7, 720, 960).pixels, 88))
    found = []
    for case in cases:
        starts = Starts(around, case, work, folder, photo)
        found += measure(starts, chosen.blocks or (FEWER if case.is_long else BLOCKS), busy=chosen.busy)
    return found


if __name__ == "__main__":
    main()
