"""What stands in for Google's services in local mode: embedded here, or emulators that run already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from consumer.local.ports import check_free
from consumer.local.pubsub import EmbeddedPubSub
from consumer.local.resources import create_bucket
from consumer.settings import EmulatorSettings
from consumer.storage import ObjectStore
from consumer.storage.filesystem import FilesystemStore


@dataclass(frozen=True, slots=True)
class Emulators:
    """Servers to use instead of the embedded ones."""

    pubsub: str | None = None
    """`host:port`"""
    storage: str | None = None
    """`http://host:port`"""

    @classmethod
    def named(cls) -> Emulators:
        """Return those that the environment names."""
        environment = EmulatorSettings()
        return cls(environment.pubsub_emulator_host, environment.storage_emulator_host)


@asynccontextmanager
async def embedded_pubsub(host: str, port: int) -> AsyncIterator[EmbeddedPubSub]:
    """Run a Pub/Sub server of our own.

    Raises:
        OSError: the port is taken.
    """
    await asyncio.to_thread(check_free, host, port)
    server = EmbeddedPubSub()
    await asyncio.to_thread(server.start, port, host)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


def open_bucket(folder: Path, bucket: str, project: str, emulator: str | None) -> ObjectStore:
    """Return a store with an empty or older bucket in it: in a folder, or in an emulator. Blocks.

    Raises:
        OSError: the emulator cannot be reached.
    """
    if emulator is None:
        (folder / bucket).mkdir(exist_ok=True)
        return FilesystemStore(folder)
    from consumer.storage.gcs import GcsStore

    create_bucket(emulator, project, bucket)
    return GcsStore(project, emulator=emulator)
