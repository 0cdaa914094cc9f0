"""How everything here is measured: all sides in one run and in turns, medians, and how sure they are.

A figure is a ratio of two sides that were measured by turns (A B B A ...) in blocks of a few seconds, so
that whatever else the machine does meets both. What is reported is the median of the blocks' ratios and a
bootstrap interval of it; a target is met when the interval's worse end meets it. Beside each run stands a
control: one side against itself. A machine that is busy with something else, or whose control is off, gives
no figures. Where the blocks do not say on which side of its target a figure is, or the control is off, more
are measured (`is_settled`), and all of them count.

A benchmark is a program that is used like the others:

    options = parser(__doc__).parse_args()          # --busy, --blocks, --out, and what it adds
    require_quiet(busy=options.busy)
    seconds = in_turns({"ours": ..., "theirs": ...}, options.blocks or BLOCKS)
    write("x-name", [Row(...)], options)
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(os.environ.get("MLWORKER_BENCH_RESULTS") or Path(__file__).parent / "results")
"""Where results go that nobody sends elsewhere with `--out`."""
BLOCKS = 7
BUSY = 0.35
"""Cores that others may use; more, and nothing is measured."""
CONTROL = 0.05
"""How far a side may be from itself."""
PATIENCE = 3
"""How many times the usual blocks are measured at most."""
_SAMPLES = 2000

Side = Callable[[], float]
"""Does one block of work, and returns what was measured: seconds a unit, or units a second."""
Measured = Mapping[str, Sequence[float]]
"""What each side has measured, block by block."""


class BusyMachine(RuntimeError):
    """The machine has other things to do: its figures would be about them."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A median, and the interval it lies in nine times of ten."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be: its worse end counts."""

    least: float | None = None
    most: float | None = None

    def is_met(self, figure: Figure) -> bool:
        """Tell whether the figure is good enough."""
        return (self.least is None or figure.low >= self.least) and (
            self.most is None or figure.high <= self.most
        )

    def is_open(self, figure: Figure) -> bool:
        """Tell whether the target lies within the figure's interval, so that more blocks may decide."""
        return any(end is not None and figure.low < end < figure.high for end in (self.least, self.most))

    def __str__(self) -> str:
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"


@dataclass(frozen=True, slots=True)
class Curve:
    """How one thing depends on another."""

    across: str
    """What it depends on, with its unit."""
    up: str
    """What it is, with its unit."""
    points: Mapping[str, Sequence[tuple[float, float]]]
    """By what is compared: (x, y), by growing x."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure as it is committed."""

    id: str
    metric: str
    figure: Figure
    target: Target | None = None
    peers: Mapping[str, float] = field(default_factory=dict)
    """What others reach, by their names, in the same unit."""
    peer_versions: Mapping[str, str] = field(default_factory=dict)
    """Of peers that live in an environment of their own."""
    note: str = ""
    curve: Curve | None = None
    """What its picture shows."""

    def as_json(self, *, busy: bool = False) -> dict[str, object]:
        """Return the row as `results/*.json` holds it; `busy` if others used the machine meanwhile."""
        return {
            "id": self.id,
            "metric": self.metric,
            "value": round(self.figure.value, 4),
            "interval": [round(self.figure.low, 4), round(self.figure.high, 4)],
            "target": str(self.target) if self.target else None,
            "met": self.target.is_met(self.figure) if self.target else None,
            "peers": {name: round(value, 4) for name, value in self.peers.items()},
            "note": self.note,
            "curve": dataclasses.asdict(self.curve) if self.curve else None,
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "busy": busy,
            "machine": machine(),
            "versions": _together(versions(), self.peer_versions),
        }


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what every benchmark takes; the benchmark adds what it takes besides.

    Args:
        description: the program's docstring: `--help` shows all of it.
    """
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    found.add_argument(
        "--busy",
        action="store_true",
        help="measure although others use the machine: to see that it works, not for figures to keep",
    )
    found.add_argument(
        "--blocks",
        type=_positive,
        metavar="N",
        help="how often each side is measured at least, instead of as often as this program finds right; "
        "fewer is quicker and less sure",
    )
    found.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="the folder results are written to (default: %(default)s; or MLWORKER_BENCH_RESULTS)",
    )
    return found


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number


def in_turns(
    sides: Mapping[str, Side],
    blocks: int = BLOCKS,
    *,
    warm: bool = False,
    enough: Callable[[Measured], bool] = lambda measured: True,
    most: int | None = None,
) -> dict[str, list[float]]:
    """Run each side `blocks` times after once to warm up, forwards and backwards by turns.

    Args:
        sides: by name.
        blocks: how often.
        warm: they have run before: the first run counts too.
        enough: tells of what was measured whether that says it; if not, there is another block.
        most: how many blocks there are then at most; `PATIENCE` times as many, if nothing is said.

    Returns:
        Each side's measurements; those of one position were made beside each other.
    """
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for side in () if warm else sides.values():
        side()
    block, most = 0, PATIENCE * blocks if most is None else most
    while block < blocks or (block < most and not enough(measured)):
        for name in list(sides)[:: 1 if block % 2 == 0 else -1]:
            measured[name].append(sides[name]())
            progress(f"block {block + 1} of {max(blocks, block + 1)}: {name}")
        block += 1
    progress("")
    return measured


def is_settled(rows: Sequence[Row], control: Figure | None = None, *, busy: bool = False) -> bool:
    """Tell whether more blocks would say nothing new: no target is within its interval, the control is good.

    It is as glad of a target that is missed as of one that is met. That blocks end when they decide makes
    intervals a little narrower than nine in ten.
    """
    is_good = busy or control is None or abs(control.value - 1) <= CONTROL
    return is_good and not any(row.target and row.target.is_open(row.figure) for row in rows)


def ratio(over: Sequence[float], under: Sequence[float]) -> Figure:
    """Return the median of over ÷ under, block by block."""
    return median([a / b for a, b in zip(over, under, strict=True)])


def median(values: Sequence[float]) -> Figure:
    """Return the median of measurements and its bootstrap interval of nine in ten."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(_SAMPLES))
    return Figure(statistics.median(values), medians[_SAMPLES // 20], medians[-_SAMPLES // 20])


def controlled(side: Side, blocks: int = BLOCKS, *, busy: bool = False) -> Figure:
    """Measure a side against itself.

    Raises:
        BusyMachine: it is not as fast as itself, and nobody said `busy`.
    """
    measured = in_turns(
        {"control": side, "control again": side},
        blocks,
        enough=lambda measured: is_settled((), itself(measured, "control"), busy=busy),
    )
    return believed(itself(measured, "control"), busy=busy)


def itself(measured: Measured, side: str) -> Figure:
    """Return a side over itself, which took its turns beside it as `<side> again`."""
    return ratio(measured[f"{side} again"], measured[side])


def believed(control: Figure, *, busy: bool = False) -> Figure:
    """Return the figure of a side over itself.

    Raises:
        BusyMachine: it is not as fast as itself, and nobody said `busy`.
    """
    if abs(control.value - 1) > CONTROL and not busy:
        raise BusyMachine(f"the same code is {control} as fast as itself; at most 5 % apart is believed")
    return control


def control_row(benchmark: str, figure: Figure, case: str = "") -> Row:
    """Return the row that says how sure the others of its benchmark are, or of its case."""
    return Row(benchmark, f"{case}: control" if case else "control: the same code against itself", figure)


def require_quiet(seconds: float = 2.0, *, busy: bool = False) -> None:
    """Return if nobody else uses the machine, or if it may be `busy`.

    Raises:
        BusyMachine: somebody does.
    """
    if busy or "--busy" in sys.argv:
        return
    before, now = _busy_ticks(), time.monotonic()
    time.sleep(seconds)
    cores = (_busy_ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - now)
    if cores > BUSY:
        raise BusyMachine(
            f"others use {cores:.2f} cores, more than {BUSY:g}; wait, or add --busy to measure anyway"
        )


def _busy_ticks() -> float:
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = (
        float(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return user + nice + system + irq + softirq + steal


def on_core(core: int) -> None:
    """Keep this process, and the threads it starts from now on, on one core."""
    os.sched_setaffinity(0, {core % (os.cpu_count() or 1)})


def machine() -> dict[str, object]:
    """Return what the figures were measured on."""
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "flags" in line), "")
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "simd": [flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in flags.split()],
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what was measured and of those it was measured against."""
    found = {}
    for name in (
        "mlworker", "torch", "torchvision", "numpy", "pillow", "simplejpeg", "google-cloud-pubsub",
        "segment-anything", "sahi", "litserve", "celery",
    ):  # fmt: skip
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _together(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    """Return both sides' versions; where theirs is another than ours, both are told."""
    return {
        **ours,
        **{
            name if ours.get(name, version) == version else f"{name} of the peers": version
            for name, version in theirs.items()
        },
    }


def write(name: str, rows: Sequence[Row], options: argparse.Namespace | None = None) -> Path:
    """Print the rows and write them to `<name>.json` in the folder the options of `parser` tell."""
    for row in rows:
        told = (
            ""
            if row.target is None
            else f"  target {row.target}: {'met' if row.target.is_met(row.figure) else 'MISSED'}"
        )
        print(f"{row.id:6}{row.metric:60}{row.figure!s:>28}{told}")
    folder: Path = options.out if options else RESULTS
    busy = options.busy if options else "--busy" in sys.argv
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps([row.as_json(busy=busy) for row in rows], indent=2, ensure_ascii=False) + "\n")
    return path


def write_cases(
    name: str, cases: Mapping[str, Callable[[], Sequence[Row]]], options: argparse.Namespace
) -> None:
    """Measure case by case, and `write` the rows of those that are believed.

    Raises:
        SystemExit: a case is not believed; it names each, and why.
    """
    found: list[Row] = []
    doubted: list[str] = []
    for case, measure in cases.items():
        try:
            found += measure()
        except BusyMachine as busy:
            doubted.append(f"{case}: {busy}")
    if found:
        write(name, found, options)
    if doubted:
        sys.exit("\n".join(["no figures of", *doubted]))


def progress(text: str) -> None:
    """Show where a long run is, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
