"""Weights in a bucket: fetched once, checked, and never held in memory as a whole. Without torch."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from consumer.models.manifest import Manifest, ModelEntry
from consumer.models.weight_files import WeightCache
from consumer.storage import STREAM_BYTES
from consumer.storage.filesystem import FilesystemStore
from pipeline_steps.errors import ModelUnavailable, ObjectMissing, StoreUnavailable


def entry(data: bytes) -> ModelEntry:
    return ModelEntry.model_validate(
        {
            "name": "m",
            "kind": "classification",
            "architecture": "small_classifier",
            "weights": "gs://bucket/models/m.pt",
            "sha256": hashlib.sha256(data).hexdigest(),
            "version": "1",
            "classes": ("a", "b"),
            "input_size": 64,
        }
    )


class Bucket:
    """An object store that counts its reads, waits until it may answer, and breaks off as often as told."""

    def __init__(self, data: bytes | Exception, *, breaks: int = 0) -> None:
        self.data = data
        self.reads = 0
        self.breaks = breaks
        self.open = asyncio.Event()

    async def stream(self, bucket: str, name: str) -> AsyncIterator[bytes]:
        self.reads += 1
        await self.open.wait()
        if isinstance(self.data, Exception):
            raise self.data
        yield self.data[:5]
        if self.reads <= self.breaks:
            raise StoreUnavailable("broken off")
        yield self.data[5:]


WEIGHTS = b"some weights"
REMOTE = entry(WEIGHTS)
MANIFEST = Manifest("/models", [REMOTE])


async def fetch(folder: Path, data: bytes | Exception = WEIGHTS, *, breaks: int = 0) -> tuple[Path, Bucket]:
    bucket = Bucket(data, breaks=breaks)
    bucket.open.set()
    found = await WeightCache(folder, bucket).fetch(MANIFEST, REMOTE)  # type: ignore[arg-type]
    return found.path, bucket


def test_remote_weights_are_kept_by_their_sha256(tmp_path: Path) -> None:
    file, first = asyncio.run(fetch(tmp_path / "cache"))
    again, second = asyncio.run(fetch(tmp_path / "cache"))

    assert file == again == tmp_path / "cache" / f"{REMOTE.sha256}.pt"
    assert file.read_bytes() == WEIGHTS
    assert (first.reads, second.reads) == (1, 0)
    assert list(file.parent.iterdir()) == [file]


def test_weights_that_several_ask_for_are_fetched_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        bucket = Bucket(WEIGHTS)
        cache = WeightCache(tmp_path, bucket)  # type: ignore[arg-type]
        first, *others = [asyncio.create_task(cache.fetch(MANIFEST, REMOTE)) for _ in range(5)]
        await asyncio.sleep(0)
        first.cancel()  # giving up does not stop it for the others
        bucket.open.set()
        assert len(set(await asyncio.gather(*others))) == 1
        assert bucket.reads == 1

    asyncio.run(scenario())


def test_a_cut_off_copy_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / f"{REMOTE.sha256}.pt").write_bytes(WEIGHTS[:5])

    file, bucket = asyncio.run(fetch(tmp_path))

    assert file.read_bytes() == WEIGHTS
    assert bucket.reads == 1


def test_remote_weights_that_are_not_the_manifests_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"gs://bucket/models/m\.pt has sha256 .*, expected"):
        asyncio.run(fetch(tmp_path, b"other weights"))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [ObjectMissing("gone"), StoreUnavailable("503")])
def test_remote_weights_that_cannot_be_read_leave_the_model_unavailable(
    tmp_path: Path, failure: Exception
) -> None:
    with pytest.raises(ModelUnavailable, match=r"model 'm': cannot read gs://bucket/models/m\.pt: "):
        asyncio.run(fetch(tmp_path, failure))


def test_without_a_store_remote_weights_are_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="no object store"):
        asyncio.run(WeightCache(tmp_path).fetch(MANIFEST, REMOTE))


def test_a_download_that_breaks_off_is_begun_again_from_the_start(tmp_path: Path) -> None:
    file, bucket = asyncio.run(fetch(tmp_path, breaks=2))

    assert file.read_bytes() == WEIGHTS
    assert bucket.reads == 3
    assert list(tmp_path.iterdir()) == [file]


def test_one_that_always_breaks_off_leaves_the_model_unavailable_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"cannot read gs://bucket/models/m\.pt: broken off"):
        asyncio.run(fetch(tmp_path, breaks=3))

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_copy_leaves_the_model_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(ModelUnavailable, match=r"no copy of gs://bucket/models/m\.pt can be kept in .*file"):
        asyncio.run(fetch(tmp_path / "file"))


class Held:
    """How many bytes of the pieces that a store gave out are still held by somebody."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def piece(self, data: bytes) -> bytes:
        held = self

        class Piece(bytes):
            def __del__(self) -> None:
                held.now -= len(self)

        self.now += len(data)
        self.most = max(self.most, self.now)
        return Piece(data)


class WatchedStore(FilesystemStore):
    """A folder that knows what is still held of what it streamed."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.held = Held()

    async def stream(self, bucket: str, name: str, **options: Any) -> AsyncIterator[bytes]:  # type: ignore[override]
        async for piece in super().stream(bucket, name, **options):
            yield self.held.piece(piece)


def test_of_weights_in_a_bucket_a_few_pieces_are_held_at_most(tmp_path: Path) -> None:
    weights = bytes(range(256)) * (16 * STREAM_BYTES // 256)
    model = entry(weights)

    async def scenario() -> tuple[bytes, int]:
        store = WatchedStore(tmp_path / "buckets")
        await store.write("bucket", "models/m.pt", weights)
        file = await WeightCache(tmp_path / "cache", store).fetch(Manifest("/models", [model]), model)
        await store.close()
        return file.path.read_bytes(), store.held.most

    copied, most = asyncio.run(scenario())

    assert copied == weights
    assert STREAM_BYTES <= most <= 4 * STREAM_BYTES  # read, handed over, written; a thread may keep one more


def test_what_was_begun_early_is_read_once_and_checked_again_for_the_next_load(tmp_path: Path) -> None:
    async def scenario() -> None:
        bucket = Bucket(WEIGHTS)
        cache = WeightCache(tmp_path, bucket)  # type: ignore[arg-type]
        bucket.open.set()
        cache.begin(MANIFEST, REMOTE)
        begun = await cache.fetch(MANIFEST, REMOTE)
        assert bucket.reads == 1

        begun.path.write_bytes(b"somebody else's")

        assert (await cache.fetch(MANIFEST, REMOTE)).path.read_bytes() == WEIGHTS
        assert bucket.reads == 2

    asyncio.run(scenario())


def test_a_failure_that_nobody_waits_for_is_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        WeightCache(tmp_path).begin(MANIFEST, REMOTE)  # there is no store
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})

    asyncio.run(scenario())
    gc.collect()

    assert caplog.records == []
