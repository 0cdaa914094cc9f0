from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.__main__ import Ran, chosen, main, run, run_all, told
from benchmarks.method import (
    PATIENCE,
    BusyMachine,
    Figure,
    Row,
    Target,
    believed,
    controlled,
    in_turns,
    is_settled,
    parser,
    write,
)
from benchmarks.questions import QUESTIONS, Program

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted({program.module for question in QUESTIONS for program in question.programs})


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    return parser("").parse_args(["--out", str(tmp_path), "--busy", "--blocks", "1"])


def test_every_program_of_every_question_exists() -> None:
    assert set(PROGRAMS) <= {file.stem for file in (ROOT / "benchmarks").glob("*.py")}


def test_everything_that_make_bench_runs_takes_twenty_five_minutes() -> None:
    assert sum(p.minutes for q in QUESTIONS for p in q.programs if not p.is_long) <= 25


def test_a_side_that_is_not_as_fast_as_itself_is_believed_only_by_who_said_so() -> None:
    off = Figure(1.06, 1.0, 1.1)
    with pytest.raises(BusyMachine, match="at most 5 % apart"):
        believed(off)
    assert believed(off, busy=True) is off
    assert believed(Figure(0.96, 0.9, 1.2)).value == 0.96


def test_a_control_that_is_off_at_first_is_measured_again_until_it_is_believed() -> None:
    warm_up, off, good = [1.0] * 2, [1.2, 1.0], [1.0] * 4
    seconds = iter(warm_up + off + good)
    assert controlled(lambda: next(seconds), 1).value == 1.0
    assert list(seconds) == []


@pytest.mark.parametrize(
    ("figure", "target", "settled"),
    [
        (Figure(0.99, 0.98, 1.0), Target(least=0.97), True),
        (Figure(0.99, 0.90, 0.95), Target(least=0.97), True),
        (Figure(0.98, 0.96, 0.99), Target(least=0.97), False),
        (Figure(1.0, 0.9, 1.2), Target(most=1.1), False),
        (Figure(1.3, 1.2, 1.4), Target(most=1.1), True),
    ],
)
def test_a_figure_is_settled_when_its_target_is_not_within_its_interval(
    figure: Figure, target: Target, settled: bool
) -> None:
    assert is_settled([Row("x", "some", figure, target), Row("x", "other", figure)]) is settled


def test_turns_go_on_until_they_decide_and_then_end() -> None:
    def side() -> float:
        return 1.0

    decided = in_turns({"a": side, "b": side}, 2, enough=lambda measured: len(measured["a"]) == 4)
    assert {name: len(values) for name, values in decided.items()} == {"a": 4, "b": 4}
    never = in_turns({"a": side}, 2, enough=lambda measured: False)
    assert len(never["a"]) == 2 * PATIENCE


def test_the_questions_are_listed_by_their_letters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line[0] for line in said] == [question.id for question in QUESTIONS]


def test_only_the_questions_asked_for_are_chosen() -> None:
    assert [question.id for question in chosen("e,i")] == ["e", "i"]


def test_a_question_that_nobody_asks_is_named_with_those_there_are() -> None:
    with pytest.raises(SystemExit, match="--only z: expected some of a, b"):
        chosen("z")


def test_a_program_that_fails_is_told_and_does_not_stop_the_run(options: argparse.Namespace) -> None:
    assert run(Program("no_such_program", 1), options).trouble == "ended with 1"


def test_a_program_that_takes_too_long_is_ended(options: argparse.Namespace) -> None:
    began = time.monotonic()
    ran = run(Program("e_tiles", 0.0001), options)
    assert ran.trouble is not None
    assert ran.trouble.startswith("took more than")
    assert time.monotonic() - began < 40


def test_what_fails_has_another_try_when_all_have_had_their_turn(
    options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []

    def ran(program: Program, options: argparse.Namespace) -> Ran:
        del options
        turns.append(program.module)
        trouble = {"noisy": "ended with 1" if turns.count("noisy") == 1 else None, "broken": "ended with 1"}
        is_slow = program.module == "slow"
        return Ran(program, 1.0, "took long" if is_slow else trouble.get(program.module), is_slow)

    monkeypatch.setattr("benchmarks.__main__.run", ran)
    every = [(Program(name, 1), "why") for name in ("noisy", "good", "broken", "slow")]
    ended = run_all(every, options)

    assert turns == ["noisy", "good", "broken", "slow", "noisy", "broken"]
    assert [(one.program.module, one.trouble) for one in ended] == [
        ("noisy", None),
        ("good", None),
        ("broken", "ended with 1"),
        ("slow", "took long"),
    ]


def test_the_end_tells_what_was_measured_now_and_which_targets_are_met(
    options: argparse.Namespace,
) -> None:
    write("e-old", [Row("e", "from another day", Figure(1, 1, 1), Target(least=2))], options)
    now = (options.out / "e-old.json").stat().st_mtime + 1
    path = write("i-new", [Row("i", "boxes", Figure(1, 0.9, 1.1), Target(most=1.1))], options)
    os.utime(path, (now + 1, now + 1))
    lines = told(options.out, QUESTIONS, now)
    assert "boxes" in lines[0]
    assert lines[-1] == "1 targets met, 0 missed"


def test_a_result_says_when_where_and_with_what_it_was_measured(options: argparse.Namespace) -> None:
    (row,) = json.loads(write("x-some", [Row("x", "some", Figure(1, 1, 1))], options).read_text())
    assert row["busy"] is True
    assert {"date", "machine", "versions", "interval", "target", "met", "peers"} <= set(row)


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What each program prints for `--help`; all in one process, since importing torch takes seconds."""
    script = """
import contextlib, io, json, runpy, sys
said = {}
for program in sys.argv[1:]:
    sys.argv = [program, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        runpy.run_module(f"benchmarks.{program}", run_name="__main__")
    said[program] = out.getvalue()
print(json.dumps(said))
"""
    answer = subprocess.run(
        [sys.executable, "-c", script, *PROGRAMS],
        capture_output=True, text=True, timeout=100, check=True, cwd=ROOT,
    )  # fmt: skip
    said: dict[str, str] = json.loads(answer.stdout)
    return said


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_tells_how_it_is_used(program: str, helps: dict[str, str]) -> None:
    for option in ("--busy", "--blocks", "--out"):
        assert option in helps[program]
