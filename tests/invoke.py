"""The `mlworker` command inside of this process: as `tests/command.py` runs it, without starting Python."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess

import structlog
from typer.testing import CliRunner

from consumer.cli import app
from tests.command import bare_environment


def invoke(*words: str | Path, stdin: bytes = b"", **variables: str) -> CompletedProcess[str]:
    """Run the command, and return what became of it; an error that it does not expect is raised."""
    wanted = bare_environment(**variables)
    environment: dict[str, str | None] = {name: wanted.get(name) for name in os.environ | wanted}
    arguments = [str(word) for word in words]
    with _logging_as_it_was():
        done = CliRunner().invoke(app, arguments, input=stdin, env=environment, catch_exceptions=False)
    return CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """Undo what the command did to this process's logging: its stderr is gone afterwards."""
    root, configuration = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # or they would be closed
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.configure(**configuration)
