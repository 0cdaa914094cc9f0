"""How commands speak and end: lines on stderr, JSON on stdout, exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import orjson
import typer

if TYPE_CHECKING:
    from rich.console import Console

    from consumer.validation import Report

T = TypeVar("T")

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; Ctrl-C ends the command with its own exit code."""
    import asyncio

    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def exit_with(work: Coroutine[Any, Any, int], *, at_once: bool = False) -> NoReturn:
    """Run what gives an exit code, and exit with it; what an operator got wrong is said, not traced.

    Args:
        work: what to run.
        at_once: whether to end the process there and then. The interpreter's own end waits for libraries'
            threads, and nothing can hurry it: a pod that has drained must not wait for them.
    """
    from consumer.models.manifest import InvalidManifest
    from consumer.presets import InvalidPresets
    from consumer.routes import InvalidRoutes
    from consumer.settings import InvalidSettings
    from pipeline_steps.loading import PluginFailed

    try:
        code = run_to_end(work)
    except (InvalidSettings, InvalidManifest, InvalidRoutes, InvalidPresets, PluginFailed) as error:
        fail(str(error), BAD_INPUT)
    if at_once:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)


def fail(message: str, code: int) -> NoReturn:
    """Say why on stderr, and exit."""
    complain("", message, "red")
    raise typer.Exit(code)


def complain(where: str, what: str, colour: str) -> None:
    """Write to stderr without breaking the line, so that it can be searched for; nothing in it is markup."""
    from rich.text import Text

    line = Text(printable(where), colour).append(": " if where else "", "default")
    line.append("\n".join(map(printable, what.splitlines())), "default" if where else colour)
    console(stderr=True).print(line, soft_wrap=True)


def print_report(report: Report) -> None:
    """Write what `validate` found: a line for each problem and warning."""
    for warning in report.warnings:
        complain("warning", warning, "yellow")
    for problem in report.problems:
        complain(problem.path, problem.message, "red")
    if not report.problems:
        typer.echo(f"valid: {report.what}")


def printable(text: str) -> str:
    """Return `text` with nothing in it that a terminal obeys: it may stand in a stranger's message."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def read_file(path: Path) -> bytes:
    """Return a file's bytes, or exit and say why not."""
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}", BAD_INPUT)


def print_json(content: object) -> None:
    """Write JSON to stdout."""
    data = orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    typer.echo(data, nl=False)


def console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)
