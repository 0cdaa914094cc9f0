from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.conftest import play as play
from tests.end_to_end.conftest import toys as toys
from tests.telemetry.collector import Collector, collector


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector on this machine, which no proxy leads to."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with collector() as found:
        yield found
