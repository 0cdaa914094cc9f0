"""`GcsStore` against a server that misbehaves on demand: a real HTTP server, Google's real client.

What a well-behaved server is asked is in `tests/conformance/test_object_store.py`.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from consumer.storage import ObjectInfo, PreconditionFailed
from consumer.storage.checksum import crc32c
from consumer.storage.gcs import GcsStore
from pipeline_steps.errors import (
    InvalidInput,
    NotAllowed,
    ObjectMissing,
    StoreMisconfigured,
    StoreUnavailable,
)

pytestmark = pytest.mark.anyio

LEAF = b"leaf " * 20_000
BOUGH = LEAF * 35
"""Some pieces of a stream."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What to do to one request instead of answering it properly."""

    status: int = 200
    message: str = "because the test says so"
    truncate: bool = False
    """Promise the whole body and hang up in the middle."""
    flip: bool = False
    """Change a byte of the body."""
    lose_answer: bool = False
    """Do what was asked and hang up."""
    silence_s: float = 0


@dataclass
class Bucket:
    """The bucket `leaves`, and what shall happen to the next requests of each kind."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    """By kind of request: `stat`, `media`, `upload`, `delete`, `list`, `token`."""
    seen: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def put(self, name: str, data: bytes, **extra: Any) -> dict[str, Any]:
        generation = len(self.seen) + 1000
        self.objects[name] = {
            "name": name, "bucket": "leaves", "generation": str(generation), "size": str(len(data)),
            "crc32c": crc32c(data), "data": data, **extra,
        }  # fmt: skip
        return self.objects[name]

    def count(self, kind: str) -> int:
        return self.seen.count(kind)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path, query = self._address()
        if path.endswith("/o"):
            self._answer("list", lambda: (200, {"items": []} if "/b/leaves/" in path else None))
        elif "media" in query.get("alt", ()):
            self._answer("media", lambda: self._media(path, query))
        else:
            self._answer("stat", lambda: self._found(path, query))

    def do_DELETE(self) -> None:
        path, _ = self._address()
        gone = self.bucket.objects.pop(_name(path), None)
        self._answer("delete", lambda: (204, b"") if gone else (404, None))

    def do_POST(self) -> None:
        path, query = self._address()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/token":
            self._answer("token", lambda: (200, {"access_token": "t", "expires_in": 3600}))
        else:
            self._answer("upload", lambda: self._upload(body, query))

    def _address(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return parts.path, parse_qs(parts.query)

    def _found(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        found = self.bucket.objects.get(_name(path))
        if not found or query.get("generation", [found["generation"]]) != [found["generation"]]:
            return 404, None
        return 200, {key: value for key, value in found.items() if key != "data"}

    def _media(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        status, found = self._found(path, query)
        return (status, self.bucket.objects[_name(path)]["data"]) if found else (status, None)

    def _upload(self, body: bytes, query: dict[str, list[str]]) -> tuple[int, Any]:
        boundary = re.search(r'boundary="(.+)"', self.headers["Content-Type"])
        assert boundary
        assert query["uploadType"] == ["multipart"]
        _, resource, content, _ = body.split(b"--" + boundary[1].encode())
        meta = json.loads(resource.partition(b"\r\n\r\n")[2])
        data = content.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        with self.bucket.lock:
            current = self.bucket.objects.get(meta["name"], {"generation": "0"})["generation"]
            if query.get("ifGenerationMatch", [current]) != [current]:
                return 412, None
            stored = self.bucket.put(meta["name"], data, contentType=meta["contentType"])
        return 200, {key: value for key, value in stored.items() if key != "data"}

    def _answer(self, kind: str, properly: Any) -> None:
        with self.bucket.lock:
            self.bucket.seen.append(kind)
            planned = self.bucket.faults.get(kind, [])
            fault = planned.pop(0) if planned else Fault()
        if fault.silence_s:
            time.sleep(fault.silence_s)  # the fault itself: a server that does not answer
        if fault.status != 200:
            self._send(fault.status, {"error": {"code": fault.status, "message": fault.message}}, fault)
            return
        status, answer = properly()
        if answer is None:
            answer = {"error": {"code": status, "message": "no"}}
        self._send(status, answer, fault)

    def _send(self, status: int, answer: Any, fault: Fault) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        if fault.lose_answer:
            self.close_connection = True
            return
        self.send_response(status)
        if fault.flip:
            body = bytes((body[0] ^ 1,)) + body[1:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):  # the client had enough
            self.wfile.write(body[: len(body) // 2] if fault.truncate else body)
        self.close_connection = fault.truncate


def _name(path: str) -> str:
    return unquote(path.rpartition("/o/")[2])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    bucket = Bucket()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BucketHandler", (Handler,), {"bucket": bucket}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    bucket.url = f"http://127.0.0.1:{server.server_port}"
    yield bucket
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
async def store(bucket: Bucket) -> AsyncIterator[GcsStore]:
    store = GcsStore("test", bucket.url, timeout_s=5, retry_s=2)
    yield store
    await store.close()


# ---------------------------------------------------------------------------- what passes by itself


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_bad_moment_is_retried(store: GcsStore, bucket: Bucket, status: int) -> None:
    bucket.put("a", LEAF)
    bucket.faults = {kind: [Fault(status)] for kind in ("stat", "media", "upload", "delete", "list")}
    assert (await store.read("leaves", "a")).data == LEAF
    assert [info async for info in store.list("leaves", "")] == []
    assert (await store.write("leaves", "new", LEAF, if_generation_match=0)).size == len(LEAF)
    await store.delete("leaves", "new")
    assert {kind: bucket.count(kind) for kind in bucket.faults} == dict.fromkeys(bucket.faults, 2)


async def test_a_long_outage_ends_within_the_time_given(bucket: Bucket) -> None:
    store = GcsStore("test", bucket.url, timeout_s=5, retry_s=0.5)
    bucket.faults = {kind: [Fault(503)] * 100 for kind in ("stat", "upload", "list")}
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="reading gs://leaves/a"):
        await store.read("leaves", "a")
    with pytest.raises(StoreUnavailable, match="writing gs://leaves/a"):
        await store.write("leaves", "a", LEAF)
    with pytest.raises(StoreUnavailable, match="listing gs://leaves/a"):
        [info async for info in store.list("leaves", "a")]
    assert time.monotonic() - started < 5
    await store.close()


async def test_a_silent_server_is_not_waited_for_longer_than_the_timeout(bucket: Bucket) -> None:
    store = GcsStore("test", bucket.url, timeout_s=0.2, retry_s=0)
    bucket.put("a", LEAF)
    bucket.faults = {"stat": [Fault(silence_s=1)]}
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="timed out"):
        await store.stat("leaves", "a")
    assert time.monotonic() - started < 1
    await store.close()


async def test_nobody_listening_is_a_bad_moment() -> None:
    store = GcsStore("test", "127.0.0.1:9", retry_s=0.1)
    with pytest.raises(StoreUnavailable, match="reading gs://leaves/a"):
        await store.stat("leaves", "a")
    await store.close()


# ---------------------------------------------------------------------------- damaged downloads


async def test_a_broken_off_download_is_begun_again(store: GcsStore, bucket: Bucket) -> None:
    bucket.put("a", LEAF)
    bucket.faults = {"media": [Fault(truncate=True)]}
    assert (await store.read("leaves", "a")).data == LEAF
    assert bucket.count("media") == 2


async def test_a_damaged_download_is_repeated(store: GcsStore, bucket: Bucket) -> None:
    bucket.put("a", LEAF)
    bucket.faults = {"media": [Fault(flip=True), Fault(flip=True)]}
    assert (await store.read("leaves", "a")).data == LEAF
    assert bucket.count("media") == 3


async def test_an_object_that_always_arrives_damaged_is_unavailable(store: GcsStore, bucket: Bucket) -> None:
    bucket.put("a", LEAF, crc32c=crc32c(b"something else"))
    with pytest.raises(StoreUnavailable, match=r"gs://leaves/a failed 3 times: 100000 bytes of CRC-32C"):
        await store.read("leaves", "a")


async def test_an_object_that_is_not_wanted_after_all_is_never_asked_for(
    store: GcsStore, bucket: Bucket
) -> None:
    def refuse(info: ObjectInfo) -> None:
        raise NotAllowed(f"{info.size} bytes")

    bucket.put("a", LEAF)
    with pytest.raises(NotAllowed, match="100000 bytes"):
        await store.read("leaves", "a", on_found=refuse)
    assert bucket.count("media") == 0


async def test_an_object_replaced_between_stat_and_download_is_read_anew(
    store: GcsStore, bucket: Bucket
) -> None:
    pinned = int(bucket.put("a", LEAF)["generation"])
    bucket.faults = {"media": [Fault(404)]}
    assert (await store.read("leaves", "a")).data == LEAF
    bucket.faults = {"media": [Fault(404)]}
    with pytest.raises(ObjectMissing):
        await store.read("leaves", "a", generation=pinned)
    bucket.faults = {"media": [Fault(404)] * 9}
    with pytest.raises(StoreUnavailable, match="replaced meanwhile"):
        await store.read("leaves", "a")


# ---------------------------------------------------------------------------- streams


async def streamed(store: GcsStore, into: list[bytes]) -> None:
    async for piece in store.stream("leaves", "a"):
        into.append(piece)  # noqa: PERF401 (what came before an error is looked at too)


async def test_a_stream_that_cannot_begin_yet_is_tried_again(store: GcsStore, bucket: Bucket) -> None:
    bucket.put("a", LEAF)
    bucket.faults = {"stat": [Fault(503)], "media": [Fault(503)]}
    pieces: list[bytes] = []
    await streamed(store, pieces)
    assert b"".join(pieces) == LEAF


async def test_a_stream_that_breaks_off_is_told_and_never_gone_on_with_in_the_middle(
    store: GcsStore, bucket: Bucket
) -> None:
    bucket.put("a", BOUGH)
    bucket.faults = {"media": [Fault(truncate=True)]}
    pieces: list[bytes] = []
    with pytest.raises(StoreUnavailable, match="reading gs://leaves/a"):
        await streamed(store, pieces)
    assert 0 < sum(map(len, pieces)) < len(BOUGH)
    assert bucket.count("media") == 1
    again: list[bytes] = []
    await streamed(store, again)
    assert b"".join(again) == BOUGH


async def test_a_stream_whose_bytes_are_not_the_objects_is_told_at_its_end(
    store: GcsStore, bucket: Bucket
) -> None:
    bucket.put("a", BOUGH)
    bucket.faults = {"media": [Fault(flip=True)]}
    pieces: list[bytes] = []
    with pytest.raises(StoreUnavailable, match=rf"gs://leaves/a: {len(BOUGH)} bytes of CRC-32C .* came, not"):
        await streamed(store, pieces)
    assert sum(map(len, pieces)) == len(BOUGH)


async def test_a_stream_of_more_than_was_announced_is_not_read_to_its_end(
    store: GcsStore, bucket: Bucket
) -> None:
    bucket.put("a", BOUGH, size="10")
    pieces: list[bytes] = []
    with pytest.raises(StoreUnavailable, match="not 10 of"):
        await streamed(store, pieces)
    assert pieces == []


async def test_a_silent_stream_is_not_waited_for_longer_than_the_timeout(bucket: Bucket) -> None:
    store = GcsStore("test", bucket.url, timeout_s=0.2, retry_s=0)
    bucket.put("a", LEAF)
    bucket.faults = {"media": [Fault(silence_s=1)]}
    with pytest.raises(StoreUnavailable, match="timed out"):
        await streamed(store, [])
    await store.close()


async def test_who_is_cancelled_while_a_piece_is_read_leaves_a_store_that_works(
    store: GcsStore, bucket: Bucket
) -> None:
    bucket.put("a", LEAF)
    bucket.faults = {"media": [Fault(silence_s=0.3)]}
    reading = asyncio.create_task(streamed(store, []))
    while not bucket.count("media"):  # noqa: ASYNC110 (a thread of the server's counts)
        await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert (await store.read("leaves", "a")).data == LEAF


# ---------------------------------------------------------------------------- writes whose answer is lost


@pytest.mark.parametrize("expected", [0, None, "present"])
async def test_a_write_whose_answer_was_lost_is_a_write(
    store: GcsStore, bucket: Bucket, expected: int | str | None
) -> None:
    old = bucket.put("a", b"old") if expected == "present" else {"generation": 0}
    bucket.faults = {"upload": [Fault(lose_answer=True)]}
    match = None if expected is None else int(old["generation"])
    written = await store.write("leaves", "a", LEAF, if_generation_match=match)
    assert written.crc32c == crc32c(LEAF)
    assert bucket.objects["a"]["data"] == LEAF
    assert written.generation == int(bucket.objects["a"]["generation"])
    assert bucket.count("upload") == 2


async def test_after_a_lost_answer_another_writers_bytes_are_not_taken_for_ours(
    store: GcsStore, bucket: Bucket
) -> None:
    bucket.put("a", b"theirs")
    bucket.faults = {"upload": [Fault(503)]}
    with pytest.raises(PreconditionFailed):
        await store.write("leaves", "a", LEAF, if_generation_match=0)


async def test_equal_bytes_of_another_writer_are_not_ours_when_nothing_was_lost(
    store: GcsStore, bucket: Bucket
) -> None:
    bucket.put("a", LEAF)
    with pytest.raises(PreconditionFailed):
        await store.write("leaves", "a", LEAF, if_generation_match=0)
    assert bucket.count("upload") == 1


async def test_a_delete_whose_answer_was_lost_is_a_delete(store: GcsStore, bucket: Bucket) -> None:
    bucket.put("a", LEAF)
    bucket.faults = {"delete": [Fault(lose_answer=True)]}
    await store.delete("leaves", "a")
    assert bucket.objects == {}


async def test_bytes_that_were_stored_otherwise_are_noticed(store: GcsStore, bucket: Bucket) -> None:
    bucket.faults = {"upload": [Fault(400, "Provided CRC32C doesn't match calculated CRC32C")]}
    with pytest.raises(StoreUnavailable, match="CRC32C"):
        await store.write("leaves", "a", LEAF)


# ---------------------------------------------------------------------------- whose fault it is


async def test_a_missing_object_costs_one_request_once_the_bucket_is_known(
    store: GcsStore, bucket: Bucket
) -> None:
    for _ in range(3):
        with pytest.raises(ObjectMissing, match="gs://leaves/a does not exist"):
            await store.stat("leaves", "a")
    assert (bucket.count("stat"), bucket.count("list")) == (3, 1)


async def test_a_missing_bucket_is_told_from_a_missing_object(store: GcsStore, bucket: Bucket) -> None:
    bucket.faults = {"list": [Fault(404), Fault(404)], "upload": [Fault(404)]}
    with pytest.raises(StoreMisconfigured, match="there is no bucket 'leaves'"):
        await store.read("leaves", "a")
    with pytest.raises(StoreMisconfigured, match="there is no bucket 'leaves'"):
        await store.delete("leaves", "a")
    with pytest.raises(StoreMisconfigured, match="there is no bucket 'leaves'"):
        await store.write("leaves", "a", LEAF)


async def test_who_may_not_list_is_told_of_a_missing_object(store: GcsStore, bucket: Bucket) -> None:
    bucket.faults = {"list": [Fault(403)]}
    with pytest.raises(ObjectMissing):
        await store.stat("leaves", "a")


@pytest.mark.parametrize("status", [401, 403])
async def test_our_own_rights_are_the_operators_to_mend(store: GcsStore, bucket: Bucket, status: int) -> None:
    bucket.put("a", LEAF)
    bucket.faults = {kind: [Fault(status)] * 3 for kind in ("stat", "upload", "delete", "list")}
    with pytest.raises(StoreMisconfigured, match="reading gs://leaves/a"):
        await store.read("leaves", "a")
    with pytest.raises(StoreMisconfigured, match="writing gs://leaves/a"):
        await store.write("leaves", "a", LEAF)
    with pytest.raises(StoreMisconfigured, match="deleting gs://leaves/a"):
        await store.delete("leaves", "a")
    with pytest.raises(StoreMisconfigured, match="listing gs://leaves/"):
        [info async for info in store.list("leaves", "")]
    assert bucket.count("stat") == 1


async def test_a_request_the_server_cannot_take_is_bad_input(store: GcsStore, bucket: Bucket) -> None:
    bucket.faults = {"stat": [Fault(400, "Invalid bucket name")]}
    with pytest.raises(InvalidInput, match="Invalid bucket name"):
        await store.stat("leaves", "a")


async def test_an_error_page_of_a_proxy_is_a_bad_moment(store: GcsStore, bucket: Bucket) -> None:
    bucket.faults = {"upload": [Fault(302)], "stat": [Fault(418)]}
    with pytest.raises(StoreUnavailable):
        await store.write("leaves", "a", LEAF)
    with pytest.raises(StoreUnavailable):
        await store.stat("leaves", "a")


def use_credentials(monkeypatch: pytest.MonkeyPatch, folder: Path, token_url: str) -> None:
    """Make Google's libraries find workload identity credentials whose tokens come from `token_url`."""
    (folder / "subject").write_text("subject token")
    credentials = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/locations/global/workforcePools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": token_url,
        "credential_source": {"file": str(folder / "subject")},
    }
    (folder / "credentials.json").write_text(json.dumps(credentials))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(folder / "credentials.json"))


async def test_credentials_that_are_refused_are_the_operators_to_mend(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_credentials(monkeypatch, tmp_path, f"{bucket.url}/token")
    bucket.faults = {"token": [Fault(400, "invalid_grant")]}
    store = GcsStore("test", retry_s=0)
    with pytest.raises(StoreMisconfigured, match="reading gs://leaves/a"):
        await store.stat("leaves", "a")
    assert bucket.count("token") == 1
    await store.close()


def test_no_credentials_at_all_are_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "not-there.json"))
    with pytest.raises(StoreMisconfigured, match="no credentials"):
        GcsStore("test")


async def test_names_of_dots_never_reach_the_server(store: GcsStore, bucket: Bucket) -> None:
    """As a URL, `DELETE /b/bucket/o/..` would be a request to delete the bucket."""
    for name in (".", ".."):
        for call in (store.read, store.stat, store.delete):
            with pytest.raises(InvalidInput):
                await call("leaves", name)
    assert bucket.seen == []


@pytest.mark.parametrize("bucket_name", ["b/o/x", "b?y", "..", "-b-", "", "UPPER"])
async def test_names_that_are_no_buckets_never_reach_the_server(
    store: GcsStore, bucket: Bucket, bucket_name: str
) -> None:
    for call in (store.read, store.stat, store.delete):
        with pytest.raises(InvalidInput, match="not a bucket's name"):
            await call(bucket_name, "a")
    with pytest.raises(InvalidInput, match="not a bucket's name"):
        await store.write(bucket_name, "a", LEAF)
    with pytest.raises(InvalidInput, match="not a bucket's name"):
        [info async for info in store.list(bucket_name, "")]
    assert bucket.seen == []
