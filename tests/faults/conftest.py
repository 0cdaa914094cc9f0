from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.peers import Peers, open_peers
from tests.faults.side_by_side import SideBySide, is_side_by_side


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the machine to themselves come last: they wait for all that run side by side."""
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


@pytest.fixture(scope="session", autouse=True)
def _side_by_side(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    request.config.pluginmanager.register(SideBySide(tmp_path_factory), "side-by-side")


@pytest.fixture
def peers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peers | None]:
    """A broker, a bucket and a backend of the test's own; those that run beside others bring theirs."""
    if is_side_by_side(request.node):
        yield None
        return
    with open_peers(tmp_path) as peers:
        yield peers


@pytest.fixture
def control(tmp_path: Path) -> Path:
    """A file that tells a simulated device what to do."""
    return tmp_path / "control"
