from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.local.pubsub import EmbeddedPubSub
from tests.dead_letters.postbox import PostBox


@pytest.fixture
def post(tmp_path: Path) -> Iterator[PostBox]:
    with EmbeddedPubSub() as broker:
        yield PostBox(broker, tmp_path)
