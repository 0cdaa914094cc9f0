"""All measurements, one after the other: `python -m benchmarks [--only a,c] [--whole | --full]`.

Each program runs in a process of its own: one that fails, or takes too long, does not stop the others. What
fails is tried once more when all have had their turn: mostly it refused to measure while the machine was
busy. At the end stands what was measured and whether its target is met. The exit code is 0 if all programs
ran, targets met or not: a missed target is a result, a program that did not run is none.

`--whole` is what takes nearly two hours: ViT-B from beginning to end, once a size. `--full` is both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.method import BusyMachine, parser, require_quiet
from benchmarks.processes import end_session
from benchmarks.questions import QUESTIONS, Program, Question

PEERS = Program("peers", 10)
_PATIENCE = 4
"""How many times its usual minutes a program may take."""


class Ran(NamedTuple):
    """How a program went."""

    program: Program
    seconds: float
    trouble: str | None
    is_too_slow: bool = False


def run(program: Program, options: argparse.Namespace) -> Ran:
    """Run a program to its end, or until it took too long; what it prints is passed on."""
    command = [sys.executable, "-m", f"benchmarks.{program.module}", *program.arguments]
    if program is not PEERS:
        command += ["--out", str(options.out), *(["--busy"] if options.busy else [])]
        command += ["--blocks", str(options.blocks)] if options.blocks else []
    began = time.monotonic()
    # A session of its own, so that what it started ends with it. Threads of torch and of numpy's algebra
    # are counted before these are imported.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        env=environment,
        cwd=Path(__file__).parents[1],
    )
    is_too_slow = False
    try:
        code = process.wait(60 * program.minutes * _PATIENCE)
        trouble = f"ended with {code}" if code else None
    except subprocess.TimeoutExpired:
        trouble, is_too_slow = f"took more than {program.minutes * _PATIENCE:g} minutes", True
    finally:
        end_session(process)
    return Ran(program, time.monotonic() - began, trouble, is_too_slow)


def run_all(programs: Sequence[tuple[Program, str]], options: argparse.Namespace) -> list[Ran]:
    """Run programs, each said to be for something; then those again that failed."""
    first = [_said(f"{number}/{len(programs)}", *one, options) for number, one in enumerate(programs, 1)]
    return [
        _said("again", *one, options) if ran.trouble and not ran.is_too_slow else ran
        for one, ran in zip(programs, first, strict=True)
    ]


def _said(turn: str, program: Program, what: str, options: argparse.Namespace) -> Ran:
    name = " ".join((program.module, *program.arguments))
    print(f"\n[{turn}] {name}: {what}", flush=True)
    ran = run(program, options)
    print(f"{name}: {ran.trouble or 'done'} after {ran.seconds:.0f} s", flush=True)
    return ran


def chosen(only: str | None) -> list[Question]:
    """Return the questions named by their letters, or all.

    Raises:
        SystemExit: there is no such question.
    """
    if only is None:
        return list(QUESTIONS)
    letters = [letter.strip() for letter in only.split(",")]
    known = {question.id: question for question in QUESTIONS}
    for letter in letters:
        if letter not in known:
            raise SystemExit(f"--only {letter}: expected some of {', '.join(known)}")
    return [known[letter] for letter in letters]


def told(folder: Path, questions: Sequence[Question], since: float) -> list[str]:
    """Return a line for each figure that was written since then, and how many of the targets are met."""
    lines, met, missed = [], 0, 0
    for question in questions:
        for file in sorted(folder.glob(f"{question.id}-*.json")):
            if file.stat().st_mtime < since:
                continue
            for row in json.loads(file.read_text()):
                verdict = {True: "met", False: "MISSED", None: ""}[row["met"]]
                met, missed = met + (row["met"] is True), missed + (row["met"] is False)
                low, high = row["interval"]
                figure = f"{row['value']:.3g}" + (f" [{low:.3g}, {high:.3g}]" if low != high else "")
                lines.append(
                    f"{row['id']:3}{row['metric']:78.78} {figure:>24} {row['target'] or '':>8} {verdict}"
                )
    return [*lines, f"{met} targets met, {missed} missed"]


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for; return the exit code."""
    words = parser(__doc__)
    words.add_argument("--only", metavar="a,c", help="only these questions (default: all)")
    length = words.add_mutually_exclusive_group()
    length.add_argument("--whole", action="store_true", help="only what takes long: ViT-B whole")
    length.add_argument("--full", action="store_true", help="that too")
    words.add_argument("--list", action="store_true", help="only say which questions there are")
    options = words.parse_args(arguments)
    options.out = options.out.resolve()
    questions = chosen(options.only)
    if options.list:
        for question in questions:
            print(f"{question.id}  {question.title}")
        return 0
    try:
        require_quiet(busy=options.busy)
    except BusyMachine as busy:
        print(busy, file=sys.stderr)
        return 2

    peers = [] if options.whole else [(PEERS, "the environment of the peers; made once")]
    programs = peers + [
        (program, f"{question.id}: {question.title}")
        for question in questions
        for program in question.programs
        if options.full or program.is_long == options.whole
    ]
    began = time.time()
    failed = [one for one in run_all(programs, options) if one.trouble]

    print(*["", *told(options.out, questions, began)], sep="\n")
    for one in failed:
        print(f"{one.program.module}: {one.trouble}; run it alone to see why", file=sys.stderr)
    print(f"{(time.time() - began) / 60:.1f} minutes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
