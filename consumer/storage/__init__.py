"""The object store's port: what the worker asks of a bucket, whoever keeps it.

Errors are `pipeline_steps.errors`: `ObjectMissing`, `StoreUnavailable`, `StoreMisconfigured`; and
`PreconditionFailed` below.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

STREAM_BYTES = 1 << 20
"""The most that one piece of a stream holds."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What the store knows of an object without its bytes."""

    bucket: str
    name: str
    generation: int
    """Grows with every write of the same name."""
    size: int
    content_type: str = "application/octet-stream"
    metadata: Mapping[str, str] = field(default_factory=dict)
    crc32c: str = ""
    """Base64 of the big-endian CRC-32C, as Cloud Storage gives it."""
    age: float = field(default=0.0, compare=False)
    """Seconds since it was written, when it was asked about, by the store's own clock: at least so many."""

    @property
    def url(self) -> str:
        """`gs://bucket/name`."""
        return f"gs://{self.bucket}/{self.name}"


OnFound = Callable[[ObjectInfo], None]


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object and its bytes."""

    info: ObjectInfo
    data: bytes


class PreconditionFailed(Exception):
    """The object's generation is not the one that was asked for (HTTP 412)."""


class ObjectStore(Protocol):
    """A bucket's reads and writes.

    Every call is bounded in time and retried inside the adapter for what may pass by itself; what is
    raised is final for this call.
    """

    async def stat(self, bucket: str, name: str, *, generation: int | None = None) -> ObjectInfo:
        """Return what is known of the object.

        Raises:
            ObjectMissing: it, or that generation of it, does not exist.
        """
        ...

    async def read(
        self, bucket: str, name: str, *, generation: int | None = None, on_found: OnFound = lambda _: None
    ) -> StoredObject:
        """Return the object, its checksum verified; the bytes are those of one generation.

        Args:
            bucket: where.
            name: the object's name.
            generation: the only one that will do.
            on_found: told what is known of it before its bytes are read; in any thread, and again if it was
                replaced meanwhile. What it raises ends the read.

        Raises:
            ObjectMissing: it, or that generation of it, does not exist.
            StoreUnavailable: also when the checksum does not fit.
        """
        ...

    def stream(self, bucket: str, name: str, *, generation: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of one generation in order, at most `STREAM_BYTES` at a time.

        Nothing that came may be used before the end: only there are size and checksum compared. A transfer
        that breaks off is raised, never gone on with in the middle: who wants the object begins again. Who
        stops early closes it (`contextlib.aclosing`).

        Raises:
            ObjectMissing: it, or that generation of it, does not exist.
            StoreUnavailable: also when it broke off, or when size or checksum do not fit.
        """
        ...

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
        """Write the whole object at once; nobody ever sees a part of it.

        Args:
            bucket: where.
            name: the object's name.
            data: all of its bytes.
            content_type: MIME type.
            metadata: the object's own key-value pairs.
            if_generation_match: 0 creates only; another number replaces only that generation.

        Raises:
            PreconditionFailed: the present generation is another one.
        """
        ...

    async def delete(self, bucket: str, name: str, *, if_generation_match: int | None = None) -> None:
        """Delete the object; one that is not there is no error.

        Raises:
            PreconditionFailed: the present generation is another one.
        """
        ...

    def list(self, bucket: str, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Yield the objects whose names start with `prefix` and follow `after`, in the names' order."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
