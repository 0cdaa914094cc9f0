"""Bucket notifications on this machine: every object written through the store is announced on a topic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import orjson
import structlog

from consumer.broker import BrokerError, Publisher
from consumer.local.tasks import ended
from consumer.storage import ObjectInfo, ObjectStore, OnFound, StoredObject

log = structlog.get_logger()

_PAUSE = 0.5
"""Seconds before a notification is tried again; Cloud Storage, too, tries until it gets through."""


class NotifyingStore:
    """An `ObjectStore` that tells of every object written, as a bucket with a notification does.

    The worker writes through it too: so its own outputs come back to it as notifications, here as in
    production, and it must know them.
    """

    def __init__(self, inner: ObjectStore, written: Callable[[ObjectInfo], None]) -> None:
        self._inner = inner
        self._written = written

    async def stat(self, bucket: str, name: str, *, generation: int | None = None) -> ObjectInfo:
        """See `ObjectStore.stat`."""
        return await self._inner.stat(bucket, name, generation=generation)

    async def read(
        self, bucket: str, name: str, *, generation: int | None = None, on_found: OnFound = lambda _: None
    ) -> StoredObject:
        """See `ObjectStore.read`."""
        return await self._inner.read(bucket, name, generation=generation, on_found=on_found)

    def stream(self, bucket: str, name: str, *, generation: int | None = None) -> AsyncGenerator[bytes, None]:
        """See `ObjectStore.stream`."""
        return self._inner.stream(bucket, name, generation=generation)

    async def write(
        self,
        bucket: str,
        name: str,
        data: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
        if_generation_match: int | None = None,
    ) -> ObjectInfo:
        """See `ObjectStore.write`; announced once it is there."""
        info = await self._inner.write(
            bucket,
            name,
            data,
            content_type=content_type,
            metadata=metadata,
            if_generation_match=if_generation_match,
        )
        self._written(info)
        return info

    async def delete(self, bucket: str, name: str, *, if_generation_match: int | None = None) -> None:
        """See `ObjectStore.delete`; not announced, as by a notification for OBJECT_FINALIZE alone."""
        await self._inner.delete(bucket, name, if_generation_match=if_generation_match)

    def list(self, bucket: str, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """See `ObjectStore.list`."""
        return self._inner.list(bucket, prefix, after=after)

    async def close(self) -> None:
        """See `ObjectStore.close`."""
        await self._inner.close()


class BucketNotifications:
    """Publishes what Cloud Storage would publish, beside the writes: no write waits for the broker."""

    def __init__(self, publisher: Publisher, topic: str) -> None:
        self._publisher = publisher
        self._topic = topic
        self._queue: asyncio.Queue[ObjectInfo] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._publish_all(), name="bucket-notifications")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await ended(self._task)

    def announce(self, info: ObjectInfo) -> None:
        """Let it be known that the object was written."""
        self._queue.put_nowait(info)

    async def all_sent(self) -> None:
        """Wait until everything announced so far is published."""
        await self._queue.join()

    async def _publish_all(self) -> None:
        while True:
            info = await self._queue.get()
            await self._publish(info)
            self._queue.task_done()

    async def _publish(self, info: ObjectInfo) -> None:
        while True:
            try:
                await self._publisher.publish(self._topic, body(info), attributes(info))
            except BrokerError as error:
                log.warning("notification_delayed", object=info.url, error=str(error))
                await asyncio.sleep(_PAUSE)
            else:
                return


def attributes(info: ObjectInfo) -> dict[str, str]:
    """Return the attributes of an `OBJECT_FINALIZE` notification, as Cloud Storage names them."""
    return {
        "notificationConfig": f"projects/_/buckets/{info.bucket}/notificationConfigs/1",
        "eventType": "OBJECT_FINALIZE",
        "payloadFormat": "JSON_API_V1",
        "bucketId": info.bucket,
        "objectId": info.name,
        "objectGeneration": str(info.generation),
        "eventTime": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    }


def body(info: ObjectInfo) -> bytes:
    """Return the notification's body: the object resource, as far as readers need it."""
    return orjson.dumps(
        {
            "kind": "storage#object",
            "id": f"{info.bucket}/{info.name}/{info.generation}",
            "name": info.name,
            "bucket": info.bucket,
            "generation": str(info.generation),
            "contentType": info.content_type,
            "size": str(info.size),
            "crc32c": info.crc32c,
            "metadata": dict(info.metadata),
        }
    )
