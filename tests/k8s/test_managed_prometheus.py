"""The rules where they are deployed, in Managed Prometheus: what they record comes back with more labels.

Whatever is written there belongs to a project and a location, and says so when it is read, which a rule's
result does not do before it is written. What compares the two without saying by which label finds
nothing in common, and says so to nobody: it is tested as the rules are elsewhere, with those labels added.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring import test_backlog_alerts, test_hold, test_rules

ADDED = {"location": "europe-west4", "project_id": "nursery-prod"}
_ASK = {"asked", "wanted", "held", "not_held", "paged"}
EVALUATING = [
    it
    for module in (test_rules, test_hold, test_backlog_alerts)
    for name, it in vars(module).items()
    if name.startswith("test_") and callable(it) and _ASK & set(it.__code__.co_names)
]


@pytest.fixture(autouse=True)
def managed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every recorded series say where it was written."""
    groups, asked = test_rules.groups, test_rules.asked

    def with_labels(*files: Path) -> list[dict[str, Any]]:
        found = deepcopy(groups(*files))
        for rule in (rule for group in found for rule in group["rules"] if "record" in rule):
            rule["labels"] = {**rule.get("labels", {}), **ADDED}
        return found

    def expecting_them(folder: Path, *tests: dict[str, Any]) -> None:
        said = "".join(f',{name}="{value}"' for name, value in ADDED.items())
        for looked in (one for test in tests for one in test.get("promql_expr_test", ())):
            for sample in looked["exp_samples"]:
                sample["labels"] = sample["labels"].removesuffix("}") + said + "}"
        asked(folder, *tests)

    monkeypatch.setattr(test_rules, "groups", with_labels)
    monkeypatch.setattr(test_rules, "asked", expecting_them)


@pytest.mark.parametrize("test", EVALUATING, ids=lambda it: it.__name__.removeprefix("test_"))
def test_the_rules_say_the_same_in_managed_prometheus(test: Callable[[Path], None], tmp_path: Path) -> None:
    test(tmp_path)


def test_all_that_evaluates_rules_is_asked_again() -> None:
    assert len(EVALUATING) >= 25
