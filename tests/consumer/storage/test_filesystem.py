"""What a folder can do beyond any object store: be looked into, dropped into, and shared by processes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumer.storage import STREAM_BYTES, PreconditionFailed
from consumer.storage.checksum import crc32c
from consumer.storage.filesystem import FilesystemStore
from pipeline_steps.errors import (
    InvalidInput,
    NotAllowed,
    ObjectMissing,
    StoreMisconfigured,
    StoreUnavailable,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FilesystemStore]:
    (tmp_path / "photos").mkdir()
    store = FilesystemStore(tmp_path)
    yield store
    await store.close()


def children(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def names(store: FilesystemStore) -> list[str]:
    return [info.name async for info in store.list("photos", "")]


async def test_a_person_finds_an_object_where_its_name_says(store: FilesystemStore, tmp_path: Path) -> None:
    await store.write("photos", "tenant/originals/Grüne Beete 1.jpg", b"leaf", metadata={"k": "v"})
    assert (tmp_path / "photos/tenant/originals/Grüne Beete 1.jpg").read_bytes() == b"leaf"


async def test_a_file_dropped_by_hand_is_an_object(store: FilesystemStore, tmp_path: Path) -> None:
    file = tmp_path / "photos/tenant/originals/beet.jpg"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"leaf")
    read = await store.read("photos", "tenant/originals/beet.jpg")
    assert read.data == b"leaf"
    assert read.info.generation == file.stat().st_mtime_ns
    assert read.info.content_type == "image/jpeg"
    assert read.info.crc32c == crc32c(b"leaf")
    assert [info async for info in store.list("photos", "tenant/")] == [
        await store.stat("photos", read.info.name)
    ]
    with pytest.raises(PreconditionFailed):
        await store.write("photos", "tenant/originals/beet.jpg", b"other", if_generation_match=0)
    await store.write(
        "photos", "tenant/originals/beet.jpg", b"other", if_generation_match=read.info.generation
    )


async def test_a_file_edited_by_hand_is_a_new_generation_without_metadata(
    store: FilesystemStore, tmp_path: Path
) -> None:
    written = await store.write("photos", "a.png", b"leaf", metadata={"mlworker-output": "photos/a.png"})
    (tmp_path / "photos/a.png").write_bytes(b"other leaf")
    edited = await store.read("photos", "a.png")
    assert edited.data == b"other leaf"
    assert edited.info.generation != written.generation
    assert dict(edited.info.metadata) == {}
    with pytest.raises(ObjectMissing, match=f"not {written.generation}"):
        await store.stat("photos", "a.png", generation=written.generation)


async def test_bytes_changed_behind_its_back_are_not_handed_out(
    store: FilesystemStore, tmp_path: Path
) -> None:
    written = await store.write("photos", "a", b"leaf")
    (tmp_path / "photos/a").write_bytes(b"LEAF")
    os.utime(tmp_path / "photos/a", ns=(written.generation, written.generation))
    with pytest.raises(StoreUnavailable, match="CRC-32C"):
        await store.read("photos", "a")


async def test_a_file_written_to_by_hand_while_it_is_streamed_is_told(
    store: FilesystemStore, tmp_path: Path
) -> None:
    file = tmp_path / "photos/dropped.bin"
    file.write_bytes(bytes(3 * STREAM_BYTES))
    pieces = store.stream("photos", "dropped.bin")
    await anext(pieces)
    with file.open("r+b") as hand:
        hand.write(b"other")
    os.utime(file, (1, 1))
    with pytest.raises(StoreUnavailable, match=r"gs://photos/dropped\.bin was being written by hand"):
        [piece async for piece in pieces]


async def test_a_stream_of_bytes_changed_behind_its_back_ends_with_an_error(
    store: FilesystemStore, tmp_path: Path
) -> None:
    written = await store.write("photos", "a", b"leaf")
    (tmp_path / "photos/a").write_bytes(b"LEAF")
    os.utime(tmp_path / "photos/a", ns=(written.generation, written.generation))
    with pytest.raises(StoreUnavailable, match="CRC-32C"):
        [piece async for piece in store.stream("photos", "a")]


async def test_a_replaced_object_is_streamed_to_the_end_of_the_generation_it_began_with(
    store: FilesystemStore,
) -> None:
    await store.write("photos", "a", b"1" * 3 * STREAM_BYTES)
    pieces = store.stream("photos", "a")
    first = await anext(pieces)
    await store.write("photos", "a", b"2")
    assert first + b"".join([piece async for piece in pieces]) == b"1" * 3 * STREAM_BYTES


async def test_book_keeping_is_no_object(store: FilesystemStore, tmp_path: Path) -> None:
    await store.write("photos", "a", b"leaf")
    (tmp_path / ".meta/photos/left-by-a-crash.part").write_bytes(b"le")
    assert await names(store) == ["a"]
    with pytest.raises(InvalidInput, match="not a bucket's name"):
        await store.read(".meta", "photos/lock")


@pytest.mark.parametrize("bucket", ["..", ".", "", "a/b", "../x", "UPPER", ".meta", "x" * 300])
async def test_a_bucket_is_one_folder_under_the_root(store: FilesystemStore, bucket: str) -> None:
    for call in (store.read, store.stat, store.delete):
        with pytest.raises(InvalidInput, match="not a bucket's name"):
            await call(bucket, "a")
    with pytest.raises(InvalidInput, match="not a bucket's name"):
        await store.write(bucket, "a", b"leaf")


async def test_nothing_is_written_outside_bucket_and_book_keeping(tmp_path: Path) -> None:
    store = FilesystemStore(tmp_path / "outer" / "root")
    for name in ("../../up", "/etc/up", "..", ".", "a/../../../../up", "x/" * 200 + "..", "~/up", ".meta/up"):
        await store.write("photos", name, b"leaf")
    await store.close()
    assert children(tmp_path) == {"outer"}
    assert children(tmp_path / "outer") == {"root"}
    assert children(tmp_path / "outer/root") == {"photos", ".meta"}


async def test_an_object_may_be_named_as_a_folder(store: FilesystemStore, tmp_path: Path) -> None:
    folder_first = await store.write("photos", "a/b", b"within")
    await store.write("photos", "a", b"beside")
    object_first = await store.write("photos", "c", b"beside", metadata={"k": "v"})
    await store.write("photos", "c/d", b"within")
    assert await names(store) == ["a", "a/b", "c", "c/d"]
    assert (await store.read("photos", "c")).info == object_first
    assert (await store.read("photos", "a/b")).info == folder_first
    await store.delete("photos", "a")
    assert await names(store) == ["a/b", "c", "c/d"]
    assert (tmp_path / "photos/a/b").is_file()


async def test_generations_grow_over_restarts_deletes_and_a_clock_that_steps_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generations = []
    for year in (0, 30, -30):
        now = time.time_ns() + year * 365 * 86_400 * 10**9
        monkeypatch.setattr("consumer.storage.file_generations.time.time_ns", lambda now=now: now)
        store = FilesystemStore(tmp_path)
        generations += [(await store.write("photos", "a", b"leaf")).generation for _ in range(3)]
        await store.delete("photos", "a")
        await store.close()
        monkeypatch.undo()
    assert generations == sorted(set(generations))


async def test_an_older_file_dropped_over_a_newer_one_is_another_generation(
    store: FilesystemStore, tmp_path: Path
) -> None:
    """A copy that keeps its time (`cp -p`) may make the generation go down, but never stay."""
    written = await store.write("photos", "a", b"leaf")
    old = tmp_path / "old"
    old.write_bytes(b"old leaf")
    os.utime(old, ns=(10**18, 10**18))
    old.rename(tmp_path / "photos/a")
    assert (await store.stat("photos", "a")).generation == 10**18
    with pytest.raises(ObjectMissing):
        await store.read("photos", "a", generation=written.generation)
    assert (await store.write("photos", "a", b"new")).generation > written.generation


async def test_a_sidecar_that_is_not_ours_is_named(store: FilesystemStore, tmp_path: Path) -> None:
    await store.write("photos", "a", b"leaf")
    [sidecar] = (tmp_path / ".meta/photos").rglob("*.json")
    sidecar.write_text("{}")
    with pytest.raises(StoreMisconfigured, match=sidecar.name):
        await store.read("photos", "a")


async def test_book_keeping_goes_with_its_object(store: FilesystemStore, tmp_path: Path) -> None:
    for turn in range(5):
        await store.write("photos", "a", b"leaf %d" % turn)
    assert len(list((tmp_path / ".meta/photos").rglob("*.json"))) == 1
    await store.delete("photos", "a")
    assert [path.name for path in (tmp_path / ".meta/photos").rglob("*") if path.is_file()] == ["lock"]


async def test_a_root_that_is_no_folder_is_the_operators_to_mend(tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(b"a file where the root should be")
    store = FilesystemStore(tmp_path / "root")
    with pytest.raises(StoreMisconfigured, match="writing gs://photos/a"):
        await store.write("photos", "a", b"leaf")
    await store.close()


RACER = """
import asyncio, sys
from pathlib import Path
from consumer.storage import STREAM_BYTES, PreconditionFailed
from consumer.storage.filesystem import FilesystemStore

async def main() -> None:
    store = FilesystemStore(Path(sys.argv[1]))
    sys.stdin.readline()  # the starting shot
    won = 0
    for round in range(50):
        try:
            await store.write("photos", f"{round}", sys.argv[2].encode(), if_generation_match=0)
            won += 1
        except PreconditionFailed:
            continue
    print(won)
    await store.close()

asyncio.run(main())
"""


async def test_of_racing_processes_one_wins_each_round(store: FilesystemStore, tmp_path: Path) -> None:
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", RACER, str(tmp_path), str(racer), stdin=PIPE, stdout=PIPE
        )
        for racer in range(4)
    ]
    said = await asyncio.gather(*(racer.communicate(b"go\n") for racer in racers))
    won = [int(output) for output, _ in said]
    assert sum(won) == 50
    written = [int((await store.read("photos", name)).data) for name in await names(store)]
    assert won == [written.count(racer) for racer in range(4)]


async def test_a_link_that_leads_out_of_the_bucket_is_no_object(
    store: FilesystemStore, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret.jpg").write_bytes(b"secret")
    (tmp_path / "photos/file.jpg").symlink_to(elsewhere / "secret.jpg")
    (tmp_path / "photos/folder").symlink_to(elsewhere)
    await store.write("photos", "real.jpg", b"leaf")

    for name in ("file.jpg", "folder/secret.jpg"):
        with pytest.raises(NotAllowed, match="leads out of the bucket"):
            await store.read("photos", name)
        with pytest.raises(NotAllowed):
            await store.delete("photos", name)
    for name in ("folder/new.jpg", "folder/deep/new.jpg"):
        with pytest.raises(NotAllowed):
            await store.write("photos", name, b"x")
    assert await names(store) == ["real.jpg"]
    assert children(elsewhere) == {"secret.jpg"}
    assert (elsewhere / "secret.jpg").read_bytes() == b"secret"


async def test_a_link_within_the_bucket_is_followed_and_so_is_one_to_the_bucket(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/photos").symlink_to(tmp_path / "real")
    store = FilesystemStore(tmp_path / "root")
    await store.write("photos", "a/b.jpg", b"leaf")
    (tmp_path / "real/linked").symlink_to(tmp_path / "real/a")

    assert (await store.read("photos", "linked/b.jpg")).data == b"leaf"
    await store.close()
