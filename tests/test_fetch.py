"""Getting the photo."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from consumer.fetch import Fetcher
from consumer.jobs import Ids, Job, Source, result_id
from consumer.pixel_buffers import PixelBuffers
from consumer.storage.filesystem import FilesystemStore
from contracts.builders import pipeline
from pipeline_steps.errors import ObjectMissing, Superseded, UnreadableImage
from pipeline_steps.image.encode import encode_jpeg

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
