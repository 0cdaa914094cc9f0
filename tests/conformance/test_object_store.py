"""One suite for everything that calls itself an `ObjectStore`.

Cloud Storage is stood in for by fake-gcs-server, a real HTTP server spoken to by Google's real client.
Where it answers otherwise than Cloud Storage, `Features` says so and `docs/storage-differences.md` explains;
such a test is expected to fail, and complains when it no longer does.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest

from consumer.storage import STREAM_BYTES, ObjectInfo, ObjectStore, PreconditionFailed
from consumer.storage.checksum import crc32c
from consumer.storage.filesystem import FilesystemStore
from consumer.storage.gcs import GcsStore
from pipeline_steps.errors import InvalidInput, NotAllowed, ObjectMissing, StoreMisconfigured
from tests.peers import make_gcs_bucket

pytestmark = pytest.mark.anyio

AWKWARD_NAMES = (
    "a",
    "a/b",
    "a/b/c",
    "a//b",
    "/lead",
    "trail/",
    "//",
    "tenant/originals/Überlänge 日本 🌱 #1?x=%41&y.jpg",
    "100%.jpg",
    "%",
    "%25",
    "%2E%2E",
    "%2F",
    "a%=",
    "b%+",
    "%-",
    "./x",
    "../../etc/passwd",
    "tenant/../other/secret.jpg",
    "...",
    ".hidden",
    "tab\tbell\x07",
    "back\\slash",
    "C:con",
    "long/" + "x" * 700 + ".jpg",
    "日" * 341,
    "e\u0301 is not \u00e9",
    "\u00e9 is not e\u0301",
)


@dataclass(frozen=True, slots=True)
class Features:
    """Where a store answers otherwise than Cloud Storage would."""

    honours_preconditions_of_deletes: bool = True
    makes_missing_buckets: bool = False
    allows_names_of_dots: bool = False
    """Objects called `.` and `..`."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A store under test and its empty bucket."""

    store: ObjectStore
    features: Features
    bucket: str

    async def names(self, prefix: str = "") -> list[str]:
        return [info.name async for info in self.store.list(self.bucket, prefix)]


@pytest.fixture(params=["filesystem", "gcs"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    bucket = f"bucket-{uuid.uuid4().hex}"
    if request.param == "filesystem":
        (tmp_path / "store" / bucket).mkdir(parents=True)
        store: ObjectStore = FilesystemStore(tmp_path / "store")
        features = Features(makes_missing_buckets=True, allows_names_of_dots=True)
    else:
        server = request.getfixturevalue("fake_gcs")
        make_gcs_bucket(server, bucket)
        store = GcsStore("test", server, timeout_s=20, retry_s=5)
        features = Features(honours_preconditions_of_deletes=False)
    yield Subject(store, features, bucket)
    await store.close()


def expect_failure(request: pytest.FixtureRequest, *, unless: bool, reason: str) -> None:
    if not unless:
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))


# ---------------------------------------------------------------------------- writing and reading


async def test_what_was_written_is_read_back(subject: Subject) -> None:
    metadata = {"mlworker-output": f"{subject.bucket}/a/x.jpg", "Sorte": "Küchenschelle"}
    written = await subject.store.write(
        subject.bucket, "a/x.jpg", b"leaf", content_type="image/jpeg", metadata=metadata
    )
    read = await subject.store.read(subject.bucket, "a/x.jpg")
    assert read.data == b"leaf"
    assert read.info == written
    assert written == ObjectInfo(
        subject.bucket, "a/x.jpg", written.generation, 4, "image/jpeg", metadata, crc32c(b"leaf")
    )
    assert written.url == f"gs://{subject.bucket}/a/x.jpg"


async def test_stat_and_list_tell_what_read_tells(subject: Subject) -> None:
    await subject.store.write(subject.bucket, "a", b"leaf", content_type="text/plain", metadata={"k": "v"})
    read = await subject.store.read(subject.bucket, "a")
    assert await subject.store.stat(subject.bucket, "a") == read.info
    assert [info async for info in subject.store.list(subject.bucket, "")] == [read.info]


async def test_an_empty_object_is_an_object(subject: Subject) -> None:
    await subject.store.write(subject.bucket, "empty", b"")
    assert (await subject.store.read(subject.bucket, "empty")).data == b""


async def test_a_later_write_replaces_bytes_type_and_metadata(subject: Subject) -> None:
    first = await subject.store.write(
        subject.bucket, "a", b"first", content_type="image/png", metadata={"k": "v"}
    )
    second = await subject.store.write(subject.bucket, "a", b"second")
    read = await subject.store.read(subject.bucket, "a")
    assert read.data == b"second"
    assert read.info == second
    assert dict(second.metadata) == {}
    assert second.generation > first.generation


async def test_twenty_megabytes_in_one_piece(subject: Subject) -> None:
    data = random.Random(7).randbytes(20_000_000)
    written = await subject.store.write(subject.bucket, "big", data, if_generation_match=0)
    assert written.size == len(data)
    assert (await subject.store.read(subject.bucket, "big")).data == data
    with pytest.raises(PreconditionFailed):
        await subject.store.write(subject.bucket, "big", data, if_generation_match=0)


async def test_what_is_known_of_an_object_is_told_before_its_bytes_are_read(subject: Subject) -> None:
    await subject.store.write(subject.bucket, "a", b"12345")
    told: list[ObjectInfo] = []

    def refuse(info: ObjectInfo) -> None:
        told.append(info)
        raise NotAllowed("not this one")

    with pytest.raises(NotAllowed):
        await subject.store.read(subject.bucket, "a", on_found=refuse)
    assert [(info.url, info.size) for info in told] == [(f"gs://{subject.bucket}/a", 5)]


async def test_an_object_is_never_said_to_be_older_than_it_is(subject: Subject) -> None:
    began = time.monotonic()
    await subject.store.write(subject.bucket, "a", b"12345")
    infos = [
        await subject.store.stat(subject.bucket, "a"),
        (await subject.store.read(subject.bucket, "a")).info,
    ]

    assert all(0 <= info.age <= time.monotonic() - began for info in infos)


async def test_cloud_storage_says_how_old_an_object_is_and_a_folder_does_not(subject: Subject) -> None:
    says = isinstance(subject.store, GcsStore)  # a file has the time that a process gave it
    await subject.store.write(subject.bucket, "a", b"12345")
    written = time.monotonic()
    while not (age := (await subject.store.read(subject.bucket, "a")).info.age):
        if time.monotonic() - written > 3:
            break
        await asyncio.sleep(0.1)

    assert bool(age) == says


async def test_a_stream_gives_the_object_in_pieces_none_of_them_large(subject: Subject) -> None:
    data = random.Random(7).randbytes(3 * STREAM_BYTES + 5)
    await subject.store.write(subject.bucket, "big", data)
    pieces = [piece async for piece in subject.store.stream(subject.bucket, "big")]
    assert b"".join(pieces) == data
    assert len(pieces) >= 4
    assert max(map(len, pieces)) <= STREAM_BYTES


async def test_a_stream_of_an_empty_object_ends_at_once(subject: Subject) -> None:
    await subject.store.write(subject.bucket, "empty", b"")
    assert [piece async for piece in subject.store.stream(subject.bucket, "empty")] == []


async def test_a_stream_is_of_the_generation_it_began_with(subject: Subject) -> None:
    first = await subject.store.write(subject.bucket, "a", b"first")
    pinned = subject.store.stream(subject.bucket, "a", generation=first.generation)
    assert [piece async for piece in pinned] == [b"first"]
    second = await subject.store.write(subject.bucket, "a", b"second")
    with pytest.raises(ObjectMissing):
        [piece async for piece in subject.store.stream(subject.bucket, "a", generation=first.generation)]
    assert [piece async for piece in subject.store.stream(subject.bucket, "a")] == [b"second"]
    assert second.generation != first.generation


async def test_a_stream_that_is_given_up_leaves_the_store_as_it_was(subject: Subject) -> None:
    data = random.Random(7).randbytes(4 * STREAM_BYTES)
    await subject.store.write(subject.bucket, "big", data)
    for _ in range(3):
        async with aclosing(subject.store.stream(subject.bucket, "big")) as pieces:
            async for piece in pieces:
                assert data.startswith(piece)
                break
        assert (await subject.store.read(subject.bucket, "big")).data == data


async def test_readers_never_see_half_of_a_write(subject: Subject) -> None:
    async def write(turn: int) -> None:
        data = bytes([turn]) * 200_000
        await subject.store.write(subject.bucket, "a", data, metadata={"turn": str(turn)})

    async def read() -> None:
        found = await subject.store.read(subject.bucket, "a")
        assert found.data == bytes([int(found.info.metadata["turn"])]) * 200_000

    await write(0)
    for turn in range(1, 16):
        await asyncio.gather(read(), write(turn), read(), read())


# ---------------------------------------------------------------------------- what is not there


async def test_a_missing_object_is_named(subject: Subject) -> None:
    for call in (subject.store.read, subject.store.stat):
        with pytest.raises(ObjectMissing, match=f"gs://{subject.bucket}/nowhere"):
            await call(subject.bucket, "nowhere")
    with pytest.raises(ObjectMissing, match=f"gs://{subject.bucket}/nowhere"):
        [piece async for piece in subject.store.stream(subject.bucket, "nowhere")]


async def test_a_missing_bucket_is_the_operators_to_mend(subject: Subject) -> None:
    for call in (subject.store.read, subject.store.stat):
        with pytest.raises(StoreMisconfigured, match="no-such-bucket"):
            await call("no-such-bucket", "a")
    with pytest.raises(StoreMisconfigured, match="no-such-bucket"):
        [info async for info in subject.store.list("no-such-bucket", "")]
    with pytest.raises(StoreMisconfigured, match="no-such-bucket"):
        await subject.store.delete("no-such-bucket", "a")


async def test_a_write_to_a_missing_bucket(subject: Subject) -> None:
    if subject.features.makes_missing_buckets:
        await subject.store.write("new-bucket", "a", b"leaf")
        assert (await subject.store.read("new-bucket", "a")).data == b"leaf"
    else:
        with pytest.raises(StoreMisconfigured, match="no-such-bucket"):
            await subject.store.write("no-such-bucket", "a", b"leaf")


# ---------------------------------------------------------------------------- generations


async def test_a_pinned_generation_is_read_until_it_is_replaced(subject: Subject) -> None:
    first = await subject.store.write(subject.bucket, "a", b"first")
    pinned = await subject.store.read(subject.bucket, "a", generation=first.generation)
    assert pinned.data == b"first"
    await subject.store.write(subject.bucket, "a", b"second")
    for call in (subject.store.read, subject.store.stat):
        with pytest.raises(ObjectMissing):
            await call(subject.bucket, "a", generation=first.generation)


async def test_create_only_writes_where_nothing_is(subject: Subject) -> None:
    first = await subject.store.write(subject.bucket, "a", b"first", if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        await subject.store.write(subject.bucket, "a", b"second", if_generation_match=0)
    assert (await subject.store.read(subject.bucket, "a")).data == b"first"
    await subject.store.delete(subject.bucket, "a")
    again = await subject.store.write(subject.bucket, "a", b"again", if_generation_match=0)
    assert again.generation > first.generation


async def test_a_write_replaces_only_the_generation_it_names(subject: Subject) -> None:
    first = await subject.store.write(subject.bucket, "a", b"first")
    second = await subject.store.write(subject.bucket, "a", b"second", if_generation_match=first.generation)
    with pytest.raises(PreconditionFailed):
        await subject.store.write(subject.bucket, "a", b"late", if_generation_match=first.generation)
    with pytest.raises(PreconditionFailed):
        await subject.store.write(subject.bucket, "b", b"new", if_generation_match=first.generation)
    assert (await subject.store.read(subject.bucket, "a")).info == second


@pytest.mark.parametrize("same_bytes", [False, True], ids=["each its own bytes", "all the same bytes"])
@pytest.mark.parametrize("replacing", [False, True], ids=["creating", "replacing"])
async def test_of_sixteen_racers_one_wins(subject: Subject, replacing: bool, same_bytes: bool) -> None:
    expected = (await subject.store.write(subject.bucket, "a", b"old")).generation if replacing else 0

    async def race(racer: int) -> int | None:
        data = b"same" if same_bytes else b"racer %d" % racer
        try:
            await subject.store.write(
                subject.bucket, "a", data, metadata={"racer": str(racer)}, if_generation_match=expected
            )
        except PreconditionFailed:
            return None
        return racer

    winners = [racer for racer in await asyncio.gather(*map(race, range(16))) if racer is not None]
    assert len(winners) == 1
    info = await subject.store.stat(subject.bucket, "a")
    assert info.metadata == {"racer": str(winners[0])}


# ---------------------------------------------------------------------------- deleting


async def test_a_deleted_object_is_gone_and_may_be_deleted_again(subject: Subject) -> None:
    await subject.store.write(subject.bucket, "a", b"leaf")
    await subject.store.delete(subject.bucket, "a")
    await subject.store.delete(subject.bucket, "a")
    with pytest.raises(ObjectMissing):
        await subject.store.stat(subject.bucket, "a")
    assert await subject.names() == []


async def test_a_delete_of_the_present_generation_deletes(subject: Subject) -> None:
    info = await subject.store.write(subject.bucket, "a", b"leaf")
    await subject.store.delete(subject.bucket, "a", if_generation_match=info.generation)
    assert await subject.names() == []


async def test_a_delete_of_a_replaced_generation_is_refused(
    subject: Subject, request: pytest.FixtureRequest
) -> None:
    expect_failure(
        request,
        unless=subject.features.honours_preconditions_of_deletes,
        reason="fake-gcs-server ignores if_generation_match of deletes",
    )
    first = await subject.store.write(subject.bucket, "a", b"first")
    await subject.store.write(subject.bucket, "a", b"second")
    with pytest.raises(PreconditionFailed):
        await subject.store.delete(subject.bucket, "a", if_generation_match=first.generation)
    assert (await subject.store.read(subject.bucket, "a")).data == b"second"


# ---------------------------------------------------------------------------- listing


async def test_a_list_has_the_prefixed_names_in_the_order_of_their_bytes(subject: Subject) -> None:
    names = ["b", "a/z", "a/\uffee", "a/\U0001f331", "a/é", "a/Z", "a-b", "a.b", "ab", "a/b/c"]
    for name in names:
        await subject.store.write(subject.bucket, name, b"")
    assert await subject.names() == sorted(names, key=str.encode)
    assert await subject.names("a/") == sorted((n for n in names if n.startswith("a/")), key=str.encode)
    assert await subject.names("a/b") == ["a/b/c"]
    assert await subject.names("a/b/c") == ["a/b/c"]
    assert await subject.names("nothing/here") == []


async def test_a_list_goes_on_over_pages(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.storage.gcs._PAGE", 3)
    monkeypatch.setattr("consumer.storage.filesystem._LIST_CHUNK", 3)
    names = [f"n{number}" for number in range(10)]
    for name in names:
        await subject.store.write(subject.bucket, name, b"")
    assert await subject.names("n") == names


async def test_a_list_begins_after_a_name_whether_it_is_there_or_not(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.storage.gcs._PAGE", 2)
    names = ["a/1", "a/2", "a/3", "a/Ä", "b/1"]
    for name in names:
        await subject.store.write(subject.bucket, name, b"")

    async def after(name: str, prefix: str = "a/") -> list[str]:
        found = subject.store.list(subject.bucket, prefix, after=name)
        return [info.name async for info in found]

    assert await after("a/1") == ["a/2", "a/3", "a/Ä"]
    assert await after("a/15") == ["a/2", "a/3", "a/Ä"]
    assert await after("a/Ä") == []
    assert await after("a/1", prefix="") == ["a/2", "a/3", "a/Ä", "b/1"]
    assert await after("") == ["a/1", "a/2", "a/3", "a/Ä"]


# ---------------------------------------------------------------------------- names


async def test_awkward_names_are_each_an_object_of_their_own(subject: Subject) -> None:
    for turn in ("first", "second"):  # the second time, folders and files are already there
        for name in AWKWARD_NAMES:
            await subject.store.write(subject.bucket, name, f"{turn} {name}".encode(), metadata={"is": turn})
        for name in AWKWARD_NAMES:
            found = await subject.store.read(subject.bucket, name)
            assert found.data == f"{turn} {name}".encode()
            assert found.info.name == name
            assert found.info.metadata == {"is": turn}
    assert await subject.names() == sorted(AWKWARD_NAMES, key=str.encode)
    for name in AWKWARD_NAMES:
        await subject.store.delete(subject.bucket, name)
        assert name not in await subject.names()
    assert await subject.names() == []


@pytest.mark.parametrize(
    "name",
    [
        "tenant/../other/secret.jpg",
        "tenant/./../other/secret.jpg",
        "tenant//../other/secret.jpg",
        "../{bucket}/other/secret.jpg",
        "other//secret.jpg",
        "/other/secret.jpg",
        "other%2Fsecret.jpg",
        "other/secret.jpg/",
        "other/secret.jpg/.",
        "OTHER/secret.jpg",
        "other\\secret.jpg",
    ],
)
async def test_no_name_reaches_another_tenants_object(subject: Subject, name: str) -> None:
    name = name.format(bucket=subject.bucket)
    await subject.store.write(subject.bucket, "other/secret.jpg", b"theirs")
    with pytest.raises(ObjectMissing):
        await subject.store.read(subject.bucket, name)
    await subject.store.write(subject.bucket, name, b"ours")
    await subject.store.delete(subject.bucket, name)
    assert (await subject.store.read(subject.bucket, "other/secret.jpg")).data == b"theirs"


@pytest.mark.parametrize("name", ["", "x" * 1025, "日" * 342, "lone \ud800 surrogate", "line\nbreak", "\r"])
async def test_impossible_names_are_refused(subject: Subject, name: str) -> None:
    with pytest.raises(InvalidInput):
        await subject.store.write(subject.bucket, name, b"leaf")
    with pytest.raises(InvalidInput):
        await subject.store.read(subject.bucket, name)
    assert await subject.names() == []


@pytest.mark.parametrize("name", [".", ".."])
async def test_a_name_of_dots_is_an_object_or_refused(subject: Subject, name: str) -> None:
    if subject.features.allows_names_of_dots:
        await subject.store.write(subject.bucket, name, b"leaf")
        assert await subject.names() == [name]
        await subject.store.delete(subject.bucket, name)
    else:
        with pytest.raises(InvalidInput):
            await subject.store.write(subject.bucket, name, b"leaf")
        with pytest.raises(InvalidInput):
            await subject.store.delete(subject.bucket, name)
    assert await subject.names() == []
