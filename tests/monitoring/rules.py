"""The rules of k8s/monitoring, and what is asked about them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.command import ROOT

FOLDER = ROOT / "k8s" / "monitoring"
SCALER, ALERTS, FOR_GOOGLE = FOLDER / "scaler.yaml", FOLDER / "alerts.yaml", FOLDER / "alerts-google.yaml"
DASHBOARD = FOLDER / "dashboard.json"

FROM_GOOGLE = {
    "pubsub_googleapis_com:subscription_num_undelivered_messages",
    "pubsub_googleapis_com:subscription_oldest_unacked_message_age",
    "kubernetes_io:container_restart_count",
}
"""What no worker exports: Google's own metrics, as Managed Prometheus names them."""


def tool(name: str) -> str:
    """Where a program of Prometheus' is; skips the test where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian and Ubuntu: apt-get install prometheus)")
    return found


def groups(*files: Path) -> list[dict[str, Any]]:
    """The groups of rules in these manifests."""
    return [group for file in files for group in yaml.safe_load(file.read_text())["spec"]["groups"]]


def rules(*files: Path) -> list[dict[str, Any]]:
    """All rules in these manifests."""
    return [rule for group in groups(*files) for rule in group["rules"]]


def recorded() -> set[str]:
    """What the rules record."""
    return {rule["record"] for rule in rules(SCALER) if "record" in rule}


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in an expression: of workers, of rules, and of Google's."""
    without_text = re.sub(r'"[^"]*"', '""', expression)
    return set(re.findall(r"\b(?:mlworker|pubsub_googleapis_com|kubernetes_io)[_:][\w:]+", without_text))


@dataclass(frozen=True, slots=True)
class Query:
    """One line of a panel."""

    panel: str
    legend: str
    expression: str


def queries() -> Iterator[Query]:
    """What the dashboard asks, with its variables filled in as by somebody who has just opened it."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            filled = target["expr"].replace("$namespace", ".*").replace("$price", "1")
            yield Query(panel["title"], target["legendFormat"], filled.replace("$__rate_interval", "2m"))


def promtool(*arguments: str, folder: Path) -> str:
    """What promtool says; fails the test if it is not content."""
    done = subprocess.run(
        [tool("promtool"), *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
