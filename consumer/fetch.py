"""Getting the photo: one generation of it, its checksum verified, decoded upright."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import stamina

from consumer.jobs import Job, Source
from consumer.pixel_buffers import PixelBuffers
from consumer.storage import ObjectStore, StoredObject
from pipeline_steps.artifacts import Image
from pipeline_steps.errors import ObjectMissing, Superseded, UnreadableImage
from pipeline_steps.image.intake import read_image

MISSING_GRACE = 3.0
"""Seconds a missing object is looked for again: the message may be quicker than the upload."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo as it was read."""

    image: Image
    generation: int
    orientation_applied: bool


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Reads photos, within the operator's limits."""

    store: ObjectStore
    max_bytes: int
    max_pixels: int
    missing_grace: float = MISSING_GRACE
    buffers: PixelBuffers = field(default_factory=PixelBuffers)

    async def fetch(self, job: Job) -> Photo:
        """Return the job's photo.

        Raises:
            ObjectMissing: it does not exist, also after a short grace.
            Superseded: the generation the message names was replaced or deleted.
            UnreadableImage: its bytes are not a picture we read, or over the limits.
            StoreUnavailable: the store has a bad moment.
        """
        stored = await self._read(job.source)
        if not stored.data:
            raise UnreadableImage(f"{job.source.url}: expected a picture, found zero bytes")
        decoded = await asyncio.to_thread(
            read_image,
            stored.data,
            max_pixels=self.max_pixels,
            name=job.source.url,
            memory=self.buffers.take,
        )
        return Photo(Image(decoded.pixels), stored.info.generation, decoded.orientation_applied)

    async def _read(self, source: Source) -> StoredObject:
        try:
            async for attempt in stamina.retry_context(
                on=ObjectMissing, attempts=None, timeout=self.missing_grace, wait_initial=0.3
            ):
                with attempt:
                    return await self.store.read(
                        source.bucket, source.name, generation=source.generation, max_bytes=self.max_bytes
                    )
        except ObjectMissing as error:
            if source.generation is None:
                raise
            raise Superseded(f"{source.url}#{source.generation} was replaced or deleted") from error
        raise AssertionError("the first try either returns or raises")
