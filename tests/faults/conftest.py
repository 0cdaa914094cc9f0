from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.peers import Peers, open_peers


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    """A broker, a bucket and a backend of the test's own."""
    with open_peers(tmp_path) as peers:
        yield peers
