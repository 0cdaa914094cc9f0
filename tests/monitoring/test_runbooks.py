"""Whoever is woken up by an alert finds what its runbook speaks of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from consumer.cli import app
from consumer.settings import Settings
from tests.command import ROOT
from tests.monitoring.rules import metrics_in, recorded

PAGES = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
SETTINGS = {name.upper() for name in Settings.model_fields}
_PLACEHOLDERS = {"POD", "NODE", "ID", "CODE"}


def typed(page: Path) -> list[str]:
    """What is meant to be typed: spans of code, and lines of shell blocks."""
    text = page.read_text()
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    return [
        *spans,
        *(line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()),
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_metrics_settings_events_and_links_of_a_runbook_exist(page: Path) -> None:
    text = page.read_text()
    exported = set(
        re.findall(r"^\| `(mlworker_\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    )
    series = {f"mlworker_batch_seconds_{part}" for part in ("sum", "count")} | {"mlworker_start_seconds"}
    known = exported | recorded() | series | {"pubsub_googleapis_com:subscription_num_undelivered_messages"}
    code = "\n".join(file.read_text() for file in (ROOT / "consumer").rglob("*.py"))
    capitals = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)*)(?:=\w+)?`", text))
    events = {word for grep in re.findall(r"grep (?:-E )?'?([a-z_|]+)'?", text) for word in grep.split("|")}
    links = re.findall(r"\]\(([^)#\s]+)", text)

    assert metrics_in(text) - known == set()
    assert capitals - SETTINGS - _PLACEHOLDERS == set()
    assert {word for word in events if f'"{word}' not in code and word not in _NO_EVENTS} == set()
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


_NO_EVENTS = {"subscription_id", "lease"}
"""What else is looked for: in a manifest, and the beginning of several."""


def test_commands_of_runbooks_exist_with_their_options() -> None:
    lines = [line for page in PAGES for line in typed(page)]
    asked = {found for line in lines for found in re.findall(r"(?:^|-- )mlworker ([a-z].*)", line)}
    assert len(asked) > 5
    for command in asked:
        words = command.split()
        names = [word for word in words[: 2 if words[0] == "dead-letters" else 1] if word.islower()]
        shown = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, command
        assert [option for option in re.findall(r"--[a-z-]+", command) if option not in shown.output] == [], (
            command
        )
