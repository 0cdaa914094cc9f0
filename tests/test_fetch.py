"""Getting the photo."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from PIL import Image as Pillow

from consumer.fair_threads import FairThreads
from consumer.fetch import Fetcher
from consumer.jobs import Ids, Job, Source, result_id
from consumer.memory_budget import MemoryBudget
from consumer.pixel_buffers import PixelBuffers
from consumer.storage import ObjectInfo, OnFound, StoredObject
from consumer.storage.filesystem import FilesystemStore
from contracts.builders import pipeline
from pipeline_steps.artifacts import Pixels
from pipeline_steps.errors import ObjectMissing, Superseded, UnreadableImage
from pipeline_steps.image import tiff_windows
from pipeline_steps.image.encode import encode_jpeg
from pipeline_steps.pictures import ScaledPhoto

IDS = Ids("acme", UUID(int=1), UUID(int=2))
JPEG = encode_jpeg(np.full((60, 80, 3), 90, np.uint8), 95)


def job(name: str, generation: int | None = None) -> Job:
    source = Source("photos", name, generation)
    return Job(IDS, source, pipeline(), {}, result_id(IDS, source, {}, {}))


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    store = FilesystemStore(tmp_path)
    asyncio.run(store.write("photos", "acme/one.jpg", JPEG, content_type="image/jpeg"))
    asyncio.run(store.write("photos", "acme/none.jpg", b"", content_type="image/jpeg"))
    return store


def fetcher(store: FilesystemStore, buffers: PixelBuffers | None = None) -> Fetcher:
    return Fetcher(store, 1_000_000, 1_000_000, 0.05, buffers or PixelBuffers())


def test_a_photo_comes_with_the_generation_that_was_read(store: FilesystemStore) -> None:
    photo = asyncio.run(fetcher(store).fetch(job("acme/one.jpg")))

    assert (photo.image.height, photo.image.width) == (60, 80)
    assert photo.generation == asyncio.run(store.stat("photos", "acme/one.jpg")).generation
    assert not photo.orientation_applied


def test_the_next_photo_is_decoded_where_the_last_one_was(store: FilesystemStore) -> None:
    buffers = PixelBuffers()
    reading = fetcher(store, buffers)
    photo = asyncio.run(reading.fetch(job("acme/one.jpg")))
    place = photo.image.pixels.ctypes.data
    assert buffers.kept == 0
    del photo
    assert buffers.kept == 60 * 80 * 3

    again = asyncio.run(reading.fetch(job("acme/one.jpg")))

    assert again.image.pixels.ctypes.data == place


def test_what_is_not_there_is_missing_and_a_named_generation_superseded(store: FilesystemStore) -> None:
    with pytest.raises(ObjectMissing):
        asyncio.run(fetcher(store).fetch(job("acme/two.jpg")))
    with pytest.raises(Superseded, match=r"gs://photos/acme/one\.jpg#7 was replaced or deleted"):
        asyncio.run(fetcher(store).fetch(job("acme/one.jpg", generation=7)))


def test_an_empty_file_is_no_picture(store: FilesystemStore) -> None:
    with pytest.raises(UnreadableImage, match="zero bytes"):
        asyncio.run(fetcher(store).fetch(job("acme/none.jpg")))


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


DECODED = 60 * 80 * 3


def test_a_photo_counts_as_in_memory_until_it_is_let_go(store: FilesystemStore) -> None:
    async def story() -> None:
        reading = fetcher(store)
        photo = await reading.fetch(job("acme/one.jpg"))
        assert reading.budget.held == photo.credit.size == DECODED
        photo.credit.release()
        photo.credit.release()
        assert reading.budget.held == 0

    asyncio.run(story())


class Counting(FilesystemStore):
    """How many reads are past the question how large the object is; they go on when they are told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reading: list[str] = []
        self.gate = threading.Event()

    async def read(
        self, bucket: str, name: str, *, generation: int | None = None, on_found: OnFound = lambda _: None
    ) -> StoredObject:
        def found(info: ObjectInfo) -> None:
            on_found(info)
            self.reading.append(name)
            assert self.gate.wait(10)

        return await super().read(bucket, name, generation=generation, on_found=found)


def test_of_large_files_two_are_downloaded_at_a_time_and_small_ones_do_not_wait(tmp_path: Path) -> None:
    async def story() -> None:
        store = Counting(tmp_path)
        await store.write("photos", "acme/large.jpg", JPEG + bytes(8_000_000))
        await store.write("photos", "other/small.jpg", JPEG)
        reading = Fetcher(store, 10_000_000, 1_000_000)
        photos = [asyncio.create_task(reading.fetch(job("acme/large.jpg"))) for _ in range(4)]
        await until(lambda: len(store.reading) == 2)
        photos.append(asyncio.create_task(reading.fetch(job("other/small.jpg"))))
        await until(lambda: "other/small.jpg" in store.reading)

        assert store.reading == ["acme/large.jpg"] * 2 + ["other/small.jpg"]
        assert 2 * 8_000_000 < reading.budget.held < 3 * 8_000_000  # what waits is not there yet
        store.gate.set()
        for photo in await asyncio.gather(*photos):
            photo.credit.release()
        assert (len(store.reading), reading.budget.held) == (5, 0)
        await store.close()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_photos_wait_for_room_on_the_loop_and_hold_no_thread(store: FilesystemStore) -> None:
    async def story() -> None:
        with FairThreads(1, "decode") as threads:
            told: list[tuple[float, float]] = []
            reading = Fetcher(
                store,
                1_000_000,
                1_000_000,
                budget=MemoryBudget(DECODED + len(JPEG) * 6),
                threads=threads,
                on_decoded=lambda *seconds: told.append(seconds),
            )
            first = await reading.fetch(job("acme/one.jpg"))
            others = {asyncio.create_task(reading.fetch(job("acme/one.jpg"))) for _ in range(3)}
            await until(lambda: reading.budget.waiting == 3)
            assert await asyncio.wrap_future(threads.submit("a", lambda: "free")) == "free"
            first.credit.release()
            while others:  # whichever was read first is let in first
                done, others = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
                for photo in done:
                    photo.result().credit.release()
            assert (reading.budget.held, len(told)) == (0, 4)

    asyncio.run(asyncio.wait_for(story(), 20))


def test_what_cannot_be_decoded_takes_no_room(store: FilesystemStore) -> None:
    async def story() -> None:
        await store.write("photos", "acme/cut.jpg", JPEG[: len(JPEG) // 2], content_type="image/jpeg")
        reading = fetcher(store)
        with pytest.raises(UnreadableImage):
            await reading.fetch(job("acme/cut.jpg"))
        assert reading.budget.held == 0

    asyncio.run(story())


def test_whoever_is_cancelled_while_decoding_goes_at_once_and_the_room_with_the_thread(
    store: FilesystemStore,
) -> None:
    async def story() -> None:
        with FairThreads(1, "decode") as threads:
            begin, began = threading.Event(), threading.Event()

            class Slow(PixelBuffers):
                def take(self, height: int, width: int, channels: int) -> Pixels:
                    began.set()
                    assert begin.wait(10)
                    return super().take(height, width, channels)

            reading = Fetcher(store, 1_000_000, 1_000_000, buffers=Slow(), threads=threads)
            fetching = asyncio.create_task(reading.fetch(job("acme/one.jpg")))
            assert await asyncio.to_thread(began.wait, 10)
            fetching.cancel()
            await asyncio.wait([fetching])
            assert fetching.cancelled()
            assert reading.budget.held == DECODED + len(JPEG)
            begin.set()
            await until(lambda: reading.budget.held == 0)

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_large_tiff_is_not_decoded_where_nobody_needs_it_whole(
    store: FilesystemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff_windows, "LEAST_PIXELS", 1000)
    pixels, file = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3), io.BytesIO()
    Pillow.fromarray(pixels).save(file, "TIFF", compression="tiff_lzw", tiffinfo={278: 4, 274: 3})
    asyncio.run(store.write("photos", "acme/map.tif", file.getvalue(), content_type="image/tiff"))

    reading = fetcher(store)
    windows, whole = (
        asyncio.run(reading.fetch(job("acme/map.tif"), in_windows=in_windows)) for in_windows in (True, False)
    )

    assert not windows.image.is_read
    assert whole.image.is_read
    assert windows.orientation_applied
    assert windows.generation == whole.generation
    np.testing.assert_array_equal(windows.image.pixels, whole.image.pixels)
    assert windows.credit.size == len(file.getvalue()) + 2 * 15 * 80 * 3
    for photo in (windows, whole):
        photo.credit.release()
    assert reading.budget.held == 0


def test_other_pictures_are_decoded_even_then(store: FilesystemStore) -> None:
    photo = asyncio.run(fetcher(store).fetch(job("acme/one.jpg"), in_windows=True))

    assert photo.image.is_read


def test_a_photo_is_scaled_where_models_are_shown_less_of_it(store: FilesystemStore) -> None:
    reading = fetcher(store)
    small, whole = (asyncio.run(reading.fetch(job("acme/one.jpg"), longest=n)) for n in (20, None))

    assert isinstance(small.image.source, ScaledPhoto)
    assert small.image.source.small.shape == (23, 30, 3)
    assert (small.image.height, small.image.width) == (60, 80)
    assert small.credit.size == 23 * 30 * 3 + len(JPEG)
    np.testing.assert_array_equal(small.image.pixels, whole.image.pixels)
    np.testing.assert_array_equal(
        small.image.crop([10, 20, 50, 60]).pixels, whole.image.crop([10, 20, 50, 60]).pixels
    )
    for photo in (small, whole):
        photo.credit.release()
    assert reading.budget.held == 0
