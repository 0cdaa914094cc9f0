"""`--help` teaches by example, and its examples are right."""

from __future__ import annotations

import re
import shlex
import sys

import pytest
import typer
from typer.testing import CliRunner

from consumer.cli import app
from consumer.settings import Settings
from contracts import __version__
from tests.command import mlworker

COMMANDS = (
    "demo",
    "local",
    "run",
    "doctor",
    "settings",
    "validate",
    "steps",
    "schema",
    "submit",
    "dead-letters",
    "backfill",
)


def help_of(*command: str, columns: int = 200) -> str:
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": str(columns), "NO_COLOR": "1"})
    assert shown.exit_code == 0
    return shown.stdout


def examples_in(shown: str) -> list[list[str]]:
    """The words of the commands under `Examples`, without the explanation beside them."""
    whole = re.sub(r"\\\s*\n\s*", "", shown.partition(" Examples ")[2])
    found = re.findall(r"mlworker .*?(?=\s{3,}|\s*$)", whole, re.MULTILINE)
    return [shlex.split(line)[1:] for line in found]


def test_every_command_is_listed() -> None:
    shown = help_of()

    assert [command for command in COMMANDS if f"│ {command} " not in shown] == []
    assert typer.main.get_command(app).commands.keys() == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_examples_whose_options_exist(command: str) -> None:
    shown = help_of(command)
    mine = [words for words in examples_in(shown) if words[:1] == [command]]

    assert mine
    for words in mine:
        options = [word for word in words if word.startswith("--")]
        assert [option for option in options if f" {option} " not in shown] == []


def test_the_examples_on_the_front_page_are_commands() -> None:
    assert {words[0] for words in examples_in(help_of())} <= set(COMMANDS)


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=lambda words: " ".join(words))
def test_help_fits_a_narrow_terminal(command: tuple[str, ...]) -> None:
    assert [line for line in help_of(*command, columns=80).splitlines() if len(line.rstrip()) > 80] == []


def test_run_documents_every_variable_of_its_environment() -> None:
    shown = help_of("run")

    assert [name for name in Settings.model_fields if f"\n{name.upper()} " not in shown] == []


def test_no_arguments_show_the_help() -> None:
    shown = mlworker()

    assert "Usage: mlworker" in shown.stdout + shown.stderr


def test_the_version_is_told() -> None:
    shown = mlworker("--version")

    assert (shown.returncode, shown.stdout) == (0, f"mlworker {__version__}\n")


def test_an_unknown_command_is_bad_input() -> None:
    shown = mlworker("validat", "pipeline.json")

    assert shown.returncode == 2
    assert "validat" in shown.stderr


def test_the_command_is_installed_beside_this_python() -> None:
    assert mlworker("--help").returncode == 0, f"no mlworker beside {sys.executable}"
