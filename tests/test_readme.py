"""What the README and the other documents say is so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from consumer.broker import Delivery
from consumer.cli import app
from consumer.decode import Decoder
from consumer.jobs import Job
from consumer.models.manifest import load_manifest
from consumer.models.opening import models_folder
from consumer.pipeline.definition import read_definition
from consumer.pipeline.parse import parse
from consumer.presets import load_presets
from consumer.routes import Routes, parse_routes
from pipeline_steps.loading import load_steps
from tests.command import ROOT
from tools.readme_tables import README, rendered

DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(file: Path, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", file.read_text(), re.MULTILINE | re.DOTALL)


def code(file: Path) -> list[str]:
    """Everything in a document that is meant to be typed: code spans, and lines of shell blocks."""
    text = file.read_text()
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    shell = [
        line for kind in ("sh", "console") for block in blocks(file, kind) for line in block.splitlines()
    ]
    return [*spans, *(line.removeprefix("$ ").partition(" #")[0] for line in shell)]


def test_the_generated_tables_are_up_to_date() -> None:
    assert README.read_text() == rendered(README.read_text()), "run python -m tools.readme_tables"


# ---------------------------------------------------------------------------- examples


def test_the_message_decodes_and_its_pipeline_parses() -> None:
    [message] = blocks(README, "json")
    delivery = Delivery("", "1", message.encode(), {}, datetime.now(UTC), None)
    job = Decoder(load_presets(), Routes(), 10_000_000).decode(delivery)

    assert isinstance(job, Job)
    assert job.warnings == ()
    assert parse(job.definition, load_steps(plugins=False), settings=job.settings).warnings == ()


def test_the_packaged_models_serve_the_message() -> None:
    models = load_manifest(models_folder("demo")).specs()
    definition, _ = read_definition(json.loads(blocks(README, "json")[0])["pipeline_definition"])
    assert definition is not None

    assert parse(definition, load_steps(plugins=False), models=models).warnings == ()


def test_the_pipeline_in_python_is_one_that_parses() -> None:
    [snippet] = blocks(README, "python")
    imports, _, expression = snippet.strip().partition("\n\n")
    names: dict[str, object] = {}
    exec(imports, names)

    built = eval(expression, names)

    assert parse(built, load_steps(plugins=False)).warnings == ()


def test_what_validate_is_shown_to_say_it_says() -> None:
    [shown] = blocks(README, "console")
    steps = [
        {"type": "step", "name": "segmentation", "kwargs": {"mode": "instance", "model": "beds"}},
        {"type": "step", "name": "count", "kwargs": {"confidance": 0.5}},
        {"type": "step", "name": "size_calculator"},
    ]
    said = CliRunner().invoke(app, ["validate", "-"], input=json.dumps({"steps": steps})).stderr

    assert [line for line in shown.splitlines()[1:] if line not in said.splitlines()] == []


def test_the_step_that_contributors_are_shown_can_be_declared() -> None:
    [snippet] = blocks(ROOT / "CONTRIBUTING.md", "python")
    ask = "from pipeline_steps.registry import STEPS; print(STEPS['blur_background'].summary)"
    done = subprocess.run(
        [sys.executable, "-c", f"{snippet}\n{ask}"], capture_output=True, text=True, check=False, cwd=ROOT
    )

    assert (done.stdout, done.stderr) == ("Blur what no segment covers.\n", "")


def test_the_routes_that_operators_are_shown_can_be_used() -> None:
    [content] = blocks(ROOT / "docs" / "notifications.md", "yaml")
    routes = parse_routes(yaml.safe_load(content), "notifications.md")

    found = routes.find("photos", "acme/originals/bed-7.JPG".lower())
    assert found is not None
    assert found[1] == "acme"


# ---------------------------------------------------------------------------- names of files and commands


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", document.read_text())

    assert [link for link in links if "://" not in link and not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_every_file_that_is_named_exists(document: Path) -> None:
    named = [
        span
        for span in code(document)
        if re.fullmatch(r"(consumer|contracts|pipeline_steps|tests|tools|docs)/[\w/.-]+", span)
    ]

    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_every_make_target_exists(document: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [found[1] for typed in code(document) if (found := re.match(r"make ([a-z-]+)", typed))]

    assert [target for target in named if target not in targets] == []


def command_of(words: list[str]) -> Any:
    """The command that these words begin with; None if there is none."""
    command: Any = typer.main.get_command(app)
    for word in words:
        if not hasattr(command, "commands"):
            break
        command = command.commands.get(word)
    return command


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_every_command_and_option_exists(document: Path) -> None:
    unknown = []
    for typed in code(document):
        found = re.match(r"(?:\S*/)?mlworker ((?:[a-z-]+ ?)+)(.*)", typed)
        if found is None or found[1].startswith("-"):
            continue
        command = command_of(found[1].split())
        options = {name for option in command.params for name in option.opts} if command else set()
        unknown += [typed] if command is None or set(re.findall(r"--[a-z-]+", typed)) - options else []

    assert unknown == []
