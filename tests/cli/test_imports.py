"""Commands that run no model start quickly: they load neither torch nor what they do not need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT, bare_environment

LIGHT = {
    "help": ["--help"],
    "steps": ["steps"],
    "one step": ["steps", "detection"],
    "settings": ["settings"],
    "validate": ["validate", "tests/contracts/examples/mlw_pipeline_schema_docstring.json"],
    "schema": ["schema", "--out", "OUT"],
    "submit": [
        "submit", "--tenant", "acme", "--image", "gs://photos/acme/1.jpg", "--project", "p", "--topic", "t",
        "--emulator", "127.0.0.1:1", "--timeout", "0.1",
        "--pipeline", "tests/contracts/examples/mlw_pipeline_schema_docstring.json",
    ],
    "dead letters": [
        "dead-letters", "list", "--project", "p", "--subscription", "dead-letters",
        "--emulator", "127.0.0.1:1", "--timeout", "0.1", "--wait", "0.2",
    ],
    "backfill": [
        "backfill", "gs://photos/acme/", "--project", "p", "--topic", "t", "--dry-run", "--timeout", "0.1",
        "--storage-emulator", "http://127.0.0.1:1",
        "--pipeline", "tests/contracts/examples/mlw_pipeline_schema_docstring.json",
    ],
}  # fmt: skip
"""Commands that run no model."""


def modules_after(arguments: list[str], folder: Path) -> set[str]:
    """The modules that are loaded when the command is through, in an interpreter of its own."""
    code = (
        "import sys\n"
        "from consumer.cli import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *sys.modules)"
    )
    words = [str(folder / "out") if word == "OUT" else word for word in arguments]
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=bare_environment(), timeout=60
    )
    return set(done.stdout.rpartition("MODULES")[2].split())


@pytest.mark.parametrize("arguments", LIGHT.values(), ids=LIGHT)
def test_commands_that_run_no_model_do_not_load_torch(arguments: list[str], tmp_path: Path) -> None:
    loaded = modules_after(arguments, tmp_path)

    assert "consumer.cli" in loaded
    assert loaded & {"torch", "torchvision", "segment_anything"} == set()


def test_only_what_speaks_to_google_loads_googles_clients(tmp_path: Path) -> None:
    for name in ("steps", "settings", "validate", "schema"):
        assert {
            module for module in modules_after(LIGHT[name], tmp_path) if module.startswith("google.")
        } == set()
