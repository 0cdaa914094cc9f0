"""Getting the photo: one generation of it, its checksum verified, decoded upright once there is room."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field

import stamina

from consumer.fair_threads import FairThreads
from consumer.jobs import Job, Source
from consumer.memory_budget import Credit, MemoryBudget
from consumer.ops.memory_limit import photo_memory
from consumer.ops.tracing import note, span
from consumer.photo_size import decoding_bytes
from consumer.pixel_buffers import PixelBuffers
from consumer.storage import ObjectInfo, ObjectStore, StoredObject
from pipeline_steps.artifacts import Image, Pixels
from pipeline_steps.errors import InvalidInput, ObjectMissing, Superseded, UnreadableImage
from pipeline_steps.image.intake import DecodedImage, read_image
from pipeline_steps.image.tiff_windows import TiffWindows, open_windows
from pipeline_steps.pictures import ScaledPhoto, Window

MISSING_GRACE = 3.0
"""Seconds a missing object is looked for again: the message may be quicker than the upload."""
_THREADS = 6
_LARGE, _LARGE_AT_ONCE = 8_000_000, 2
"""Files of more bytes are downloaded so many at a time: what small photos need, of the line and of the
cores, is left to them."""


class _Large(Exception):
    """It has to wait for its turn to be downloaded."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo as it was read."""

    image: Image
    generation: int
    orientation_applied: bool
    credit: Credit
    """The room it takes; to be released when nobody looks at it any more."""


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Reads photos, within the operator's limits."""

    store: ObjectStore
    max_bytes: int
    max_pixels: int
    missing_grace: float = MISSING_GRACE
    buffers: PixelBuffers = field(default_factory=PixelBuffers)
    budget: MemoryBudget = field(default_factory=lambda: MemoryBudget(photo_memory()))
    threads: FairThreads = field(default_factory=lambda: FairThreads(_THREADS, "decode"))
    on_decoded: Callable[[float, float], None] = lambda *_: None
    """Told of every photo: for how many seconds it waited for room and for a thread, and how many it took."""
    large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_LARGE_AT_ONCE))
    """Held while a large file is downloaded."""

    async def fetch(self, job: Job, *, in_windows: bool = False, longest: int | None = None) -> Photo:
        """Return the job's photo. Until its credit is released, it counts as being in memory.

        Args:
            job: whose photo.
            in_windows: nobody needs it whole: a large TIFF need not be decoded now.
            longest: nobody is shown more pixels along a side: it may be scaled while it is decoded.

        Raises:
            ObjectMissing: it does not exist, also after a short grace.
            Superseded: the generation the message names was replaced or deleted.
            UnreadableImage: its bytes are not a picture we read, or over the limits.
            StoreUnavailable: the store has a bad moment.
        """
        credit = self.budget.note(job.ids.tenant_id)
        with span("download"):
            stored = await self._read(job.source, credit)
            note(bytes=len(stored.data))
        credit.arrives(len(stored.data))
        if not stored.data:
            raise UnreadableImage(f"{job.source.url}: expected a picture, found zero bytes")
        if in_windows and (windows := await self._windows(job, stored.data, credit)):
            return Photo(Image(windows.whole), stored.info.generation, windows.turned, credit)
        with span("decode photo"):
            decoded = await self._decode(job, stored.data, credit, longest)
        source: Pixels | ScaledPhoto = decoded.pixels
        if decoded.scaled_from is not None:
            source = ScaledPhoto(decoded.pixels, self._unscaled(job, stored.data, *decoded.scaled_from))
        return Photo(Image(source), stored.info.generation, decoded.orientation_applied, credit)

    def _unscaled(self, job: Job, data: bytes, height: int, width: int) -> Window:
        """Return the photo as it is stored, to be decoded at full size by who asks for it."""
        lock, whole = threading.Lock(), list[Pixels]()

        def part(left: int, top: int, right: int, bottom: int) -> Pixels:
            with lock:
                if not whole:
                    whole.append(read_image(data, max_pixels=self.max_pixels, name=job.source.url).pixels)
            return whole[0][top:bottom, left:right]

        return Window(part, 0, 0, width, height)

    async def _windows(self, job: Job, data: bytes, credit: Credit) -> TiffWindows | None:
        """Return the photo as it is stored, with room for what windows of it take; None if it has none."""
        try:
            windows = await asyncio.to_thread(
                open_windows, data, max_pixels=self.max_pixels, name=job.source.url
            )
            if windows is not None:
                await credit.grow(windows.memory)
        except BaseException:
            credit.release()
            raise
        return windows

    async def _decode(self, job: Job, data: bytes, credit: Credit, longest: int | None) -> DecodedImage:
        asked = time.monotonic()
        # Not the future's result: the thread would hold on to the pixels for a moment longer than we do.
        answer: list[DecodedImage] = []

        def decode() -> None:
            began = time.monotonic()
            decoded = read_image(
                data,
                max_pixels=self.max_pixels,
                name=job.source.url,
                memory=self.buffers.take,
                longest=longest,
            )
            answer.append(decoded)
            self.on_decoded(began - asked, time.monotonic() - began)

        started: set[asyncio.Future[None]] = set()
        try:
            if size := decoding_bytes(data, self.max_pixels, longest):
                await credit.grow(size)
            threads = self.threads.of(job.ids.tenant_id)
            decoding = asyncio.get_running_loop().run_in_executor(threads, copy_context().run, decode)
            started.add(decoding)
            await asyncio.shield(decoding)
        except BaseException:
            # Whoever is cancelled goes at once; a thread goes on to its end, and till then takes its memory.
            credit.release_after(started)
            raise
        decoded = answer.pop()
        # Of what is scaled, the file stays: somebody may ask for the rest.
        credit.shrink(decoded.pixels.nbytes + (len(data) if decoded.scaled_from else 0))
        return decoded

    async def _read(self, source: Source, credit: Credit) -> StoredObject:
        try:
            with suppress(_Large):
                return await self._found(source, credit)
            async with self.large:
                return await self._found(source, credit, is_its_turn=True)
        except BaseException:
            credit.release()
            raise

    async def _found(self, source: Source, credit: Credit, *, is_its_turn: bool = False) -> StoredObject:
        loop = asyncio.get_running_loop()

        def on_found(info: ObjectInfo) -> None:
            if info.size > self.max_bytes:
                most = f"at most {self.max_bytes} are read (MAX_IMAGE_BYTES)"
                raise InvalidInput(f"{info.url} has {info.size} bytes, {most}")
            if info.size > _LARGE and not is_its_turn:
                raise _Large
            loop.call_soon_threadsafe(credit.arrives, info.size)

        try:
            async for attempt in stamina.retry_context(
                on=ObjectMissing, attempts=None, timeout=self.missing_grace, wait_initial=0.3
            ):
                with attempt:
                    return await self.store.read(
                        source.bucket, source.name, generation=source.generation, on_found=on_found
                    )
        except ObjectMissing as error:
            if source.generation is None:
                raise
            raise Superseded(f"{source.url}#{source.generation} was replaced or deleted") from error
        raise AssertionError("the first try either returns or raises")
