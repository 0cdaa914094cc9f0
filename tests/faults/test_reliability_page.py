"""docs/reliability.md names tests that exist, and every fault test is on it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
NOT_FAULTS = {"test_properties.py", "test_reliability_page.py", "test_soak.py"}


def defined(folder: Path) -> dict[str, str]:
    return {
        name: file.name
        for file in folder.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))

    assert len(named) > 80
    assert named - defined(ROOT / "tests").keys() == set()


def test_every_fault_that_is_made_is_on_the_page() -> None:
    faults = {
        name
        for name, file in defined(ROOT / "tests" / "faults").items()
        if file not in NOT_FAULTS and re.match(r"test_([a-z]\d+_|a_worker_killed)", name)
    }

    assert faults - set(re.findall(r"`(test_\w+)`", PAGE)) == set()
