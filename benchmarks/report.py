"""The page of figures: `python -m benchmarks.report [--check]` writes docs/benchmarks.md and its pictures.

Everything on it comes from `results/*.json`, from what `questions.py` says of each question, and, where a
target is missed, from `explanations/<id>.md`: what the profile showed and what was tried.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.drawing import Bars, Line, Mark, Sheet
from benchmarks.questions import QUESTIONS, Question

ROOT = Path(__file__).parents[1]
RESULTS, EXPLANATIONS = (Path(__file__).parent / name for name in ("results", "explanations"))
UNFINISHED = "<!-- fill in"
"""Stands in an explanation where something is still missing."""
PAGE, PICTURES = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "images"

_INTRODUCTION = """# Benchmarks

<!-- Written by `python -m benchmarks.report` from benchmarks/results: change those, not this page. -->

What the worker costs, beside its peers on the same machine in the same run. `make bench` measures everything
and writes this page (it is made to take 25 minutes; `make bench-full`, which runs ViT-B from beginning to
end, 100); `python -m benchmarks --list` names the questions, and each program tells with `--help` how it
measures.

## How it is measured

- All sides of a figure run in one run and by turns (A B B A ...), so that whatever else the machine does
  meets all of them. A figure is the median of the turns' ratios. Crews of workers (h) and a backlog that has
  to be there first (j) cannot take turns: their sides follow one another.
- In brackets stands the interval in which the median lies nine times of ten (bootstrap). A target is met when
  the *worse end* of the interval meets it. A figure without brackets was counted, composed, or measured once.
  While a target lies within the interval, or the control is off, there are more turns, up to three times as
  many; they end when that decides, met or missed, and all of them count.
- A *control* is the same code against itself: what it is off by is what a figure can be off by. When it is
  off by more than 5 %, or others use the machine when a program begins, nothing is reported. What takes no
  turns, or is counted, has no control.
- Peers are installed from the package index into an environment of their own (`make peers`), and used as
  their documentation says, with the settings at which they are fastest. segment-anything and Google's client
  are libraries of ours too: where they are measured alone (c, d), they run in our environment.
- A *simulated device* only takes time, as a GPU does as seen from the CPU: it shows what the worker around it
  costs on a machine without one.
"""


Rows = Sequence[Mapping[str, Any]]


def read(folder: Path) -> dict[str, list[Mapping[str, Any]]]:
    """Return all rows by question."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for file in sorted(folder.glob("*.json")):
        for row in json.loads(file.read_text()):
            found.setdefault(row["id"], []).append(row)
    return found


def written(results: Path = RESULTS, explanations: Path = EXPLANATIONS) -> dict[Path, str]:
    """Return the files as the results have them: the page and its pictures."""
    rows = read(results)
    files: dict[Path, str] = {}
    parts = [_INTRODUCTION, _overview(rows)]
    for question in QUESTIONS:
        mine = rows.get(question.id, [])
        parts.append(f"## {question.id}: {question.title}\n\n{question.how}\n")
        if not mine:
            parts.append("Not measured yet.\n")
            continue
        picture = PICTURES / f"benchmark-{question.name}.svg"
        drawn = _picture(question, mine)
        if drawn:
            files[picture] = drawn
            parts.append(f"![{question.title}](images/{picture.name})\n")
        parts += [_table(mine), _notes(mine)]
        explanation = explanations / f"{question.id}.md"
        if explanation.exists() and _misses(mine):
            parts.append(f"**What is missed, and why.** {explanation.read_text().strip()}\n")
        parts.append(_conditions(mine))
    files[PAGE] = "\n".join(part for part in parts if part)
    return files


def superfluous(results: Path = RESULTS, explanations: Path = EXPLANATIONS) -> list[str]:
    """Return the files that explain a question none of whose targets is missed."""
    rows = read(results)
    return [
        f"{question.id}.md"
        for question in QUESTIONS
        if (explanations / f"{question.id}.md").exists() and not _misses(rows.get(question.id, []))
    ]


def _misses(rows: Rows) -> bool:
    return any(row["met"] is False for row in rows)


def unexplained(results: Path = RESULTS, explanations: Path = EXPLANATIONS) -> list[str]:
    """Return the missed targets that their question's explanation does not name, or none is finished."""
    missed = []
    for name, mine in read(results).items():
        file = explanations / f"{name}.md"
        said = " ".join(file.read_text().split()) if file.exists() else ""
        finished = UNFINISHED not in said
        missed += [
            f"{name}: {row['metric']}"
            for row in mine
            if row["met"] is False and not (finished and row["metric"] in said)
        ]
    return missed


def _overview(rows: Mapping[str, Rows]) -> str:
    lines = ["## Overview\n", "| | question | targets met |", "|---|---|---|"]
    for question in QUESTIONS:
        asked = [row["met"] for row in rows.get(question.id, []) if row["met"] is not None]
        met = f"{sum(asked)} of {len(asked)}" if asked else "not measured yet"
        lines.append(f"| {question.id} | [{question.title}](#{_anchor(question)}) | {met} |")
    return "\n".join(lines) + "\n"


def _anchor(question: Question) -> str:
    """Return a heading's name in a link, as GitHub makes it."""
    text = f"{question.id}: {question.title}".lower()
    return "".join(c for c in text.replace(" ", "-") if c.isalnum() or c in "-_")


def _table(rows: Rows) -> str:
    lines = ["| what | figure | target | met | beside it |", "|---|---|---|---|---|"]
    for row in rows:
        peers = ", ".join(f"{name}: {_figure(value)}" for name, value in row["peers"].items())
        met = {True: "yes", False: "**no**", None: ""}[row["met"]]
        lines.append(f"| {row['metric']} | {_said(row)} | {row['target'] or ''} | {met} | {peers} |")
    return "\n".join(lines) + "\n"


def _notes(rows: Rows) -> str:
    lines = [f"- {row['metric']}: {row['note']}" for row in rows if row["note"]]
    return "\n".join(lines) + "\n" if lines else ""


def _conditions(rows: Rows) -> str:
    """Return when, where and with what the rows were measured: once where that is the same for all."""
    said: dict[str, None] = {}
    for row in rows:
        machine = row["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in sorted(row["versions"].items()))
        busy = " **while others used the machine**," if row["busy"] else ""
        said[
            f"Measured {row['date']},{busy} on {machine['cores']} cores of {machine['processor']} "
            f"({', '.join(machine['simd']) or 'no SIMD'}), Python {machine['python']}; {versions}."
        ] = None
    return "\n".join(f"<sub>{line}</sub>\n" for line in said)


def _said(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return _figure(row["value"]) + (f" [{_figure(low)}, {_figure(high)}]" if low != high else "")


def _figure(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


# --------------------------------------------------------------------------------------------------- pictures


def _picture(question: Question, rows: Rows) -> str:
    """Return a question's picture; nothing if there is nothing to see."""
    sheet = Sheet(question.title)
    curves = [_curve(row) for row in rows if row.get("curve")]
    marks = [_mark(row) for row in rows if not row.get("curve") and row["value"] > 0 and _target(row) > 0]
    bars = [found for row in rows if (found := _bars(row))]
    if curves:
        sheet.curves(curves)
    if marks:
        sheet.targets(marks)
    if bars:
        sheet.seconds(bars)
    return sheet.svg() if curves or marks or bars else ""


def _target(row: Mapping[str, Any]) -> float:
    """Return what is asked for; 0 where nothing is, or nothing may be: no figure is a multiple of that."""
    return float(row["target"].lstrip("≥≤ ")) if row["target"] else 0.0


def _mark(row: Mapping[str, Any]) -> Mark:
    least, target = row["target"].startswith("≥"), _target(row)

    def good(value: float) -> float:
        return value / target if least else target / value

    peers = {name: good(value) for name, value in row["peers"].items() if _same_unit(name) and value > 0}
    ends = sorted(good(end) for end in row["interval"] if end > 0)
    said = f"{_figure(row['value'])}  ({row['target']})"
    return Mark(row["metric"], said, good(row["value"]), ends[0], ends[-1], peers, bool(row["met"]))


def _same_unit(peer: str) -> bool:
    """Tell whether a peer's figure is of the row's own kind: one that names a unit is not."""
    return not peer.endswith((", s", ", ms", ", µs", "found"))


def _bars(row: Mapping[str, Any]) -> Bars | None:
    """Return the seconds of each side, where a row has them."""
    units = {", s": 1.0, ", ms": 1e-3, ", µs": 1e-6}
    seconds = {
        name.removesuffix(unit): value * scale
        for unit, scale in units.items()
        for name, value in row["peers"].items()
        if name.endswith(unit) and value > 0
    }
    ours_first = dict(sorted(seconds.items(), key=lambda side: side[0] != "ours"))
    return Bars(row["metric"].partition(":")[0], ours_first) if seconds else None


def _curve(row: Mapping[str, Any]) -> Line:
    curve = row["curve"]
    (points,) = curve["points"].values()
    return Line(
        what=row["metric"].partition(":")[0],
        across=curve["across"],
        up=curve["up"],
        points=[(x, y) for x, y in points],
        most=_target(row),
        met=bool(row["met"]),
    )


def main(arguments: Iterable[str]) -> int:
    """Write the page, or with --check only say whether it is up to date; return the exit code."""
    words = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    options = words.parse_args(list(arguments))
    files = written()
    old = [file for file in PICTURES.glob("benchmark-*.svg") if file not in files]
    stale = [file for file, text in files.items() if not file.exists() or file.read_text() != text]
    if options.check:
        for file in stale + old:
            print(f"{file.relative_to(ROOT)} is not what the results say: python -m benchmarks.report")
        return int(bool(stale or old))
    for file, text in files.items():
        file.write_text(text)
    for file in old:
        file.unlink()
    for line in unexplained():
        print(f"missed and not explained in benchmarks/explanations/: {line}", file=sys.stderr)
    for line in superfluous():
        print(f"benchmarks/explanations/{line}: nothing is missed, it can go", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
