"""A good site on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.storage.filesystem import FilesystemStore
from tests.doctor.sites import BUCKET, PROJECT, Good, PubSubWithPermissions, good_pubsub
from tests.doctor.storage_server import Storage, storage_server


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> Iterator[PubSubWithPermissions]:
    with PubSubWithPermissions() as server:
        good_pubsub(server)
        yield server


@pytest.fixture
def good(server: PubSubWithPermissions, tmp_path: Path) -> Good:
    (tmp_path / "buckets" / BUCKET).mkdir(parents=True)
    settings = {
        "google_cloud_project": PROJECT,
        "subscription": "work",
        "requests_topic": "requests",
        "results_topic": "results",
        "dead_letter_topic": "dead",
        "dead_letter_subscription": "dead-letters",
        "bucket": BUCKET,
        "backend_url": "none",
        "callback_allowed_hosts": (),
        "pubsub_emulator_host": server.address,
        "drain_timeout": 300.0,
    }
    return Good(server, tmp_path, FilesystemStore(tmp_path / "buckets"), settings)


@pytest.fixture
def storage(good: Good) -> Iterator[Storage]:
    """The API of buckets, which the good site's settings name; its objects are in a folder."""
    with storage_server() as storage:
        storage.buckets[BUCKET] = {}
        good.settings["storage_emulator_host"] = storage.url
        yield storage
