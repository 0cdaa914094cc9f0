"""Bad messages: each is a dead letter that says why, nothing is run for it, and the worker goes on."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.faults.invariants import judge
from tests.faults.peers import BUCKET, DEAD, ONCE, REQUESTS, Peers, open_peers, step


@pytest.fixture(scope="module")
def module_peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with open_peers(tmp_path_factory.mktemp("messages")) as peers:
        peers.worker(BRAKE_DEAD_LETTERS="0").until_ready()
        yield peers
        judge(peers)


@pytest.fixture
def shared(module_peers: Peers) -> Peers:
    """Peers with one worker."""
    return module_peers


def nested(depth: int) -> dict[str, Any]:
    element: dict[str, Any] = step("work")
    for _ in range(depth):
        element = {"type": "chain", "steps": [element]}
    return element


def request(**changes: Any) -> bytes:
    body: dict[str, Any] = {
        "tenant_id": "acme",
        "session_id": str(uuid4()),
        "image_id": str(uuid4()),
        "image_url": f"gs://{BUCKET}/acme/originals/a.jpg",
        "pipeline_definition": {"steps": [step("work")]},
        **changes,
    }
    return json.dumps({name: value for name, value in body.items() if value is not ...}).encode()


BAD = {
    "not-utf8": b"\xff\xfe\x00bad",
    "not-json": b"{broken",
    "null": b"null",
    "a-list": b"[]",
    "a-number": b"1e999",
    "nan": b'{"tenant_id": NaN}',
    "deep-json": b"[" * 100_000,
    "no-tenant": request(tenant_id=...),
    "tenant-with-a-path": request(tenant_id="../other"),
    "tenant-of-ours": request(tenant_id="models"),
    "no-image": request(image_id="not-a-uuid"),
    "no-pipeline": request(pipeline_definition=...),
    "unknown-step": request(pipeline_definition={"steps": [step("conut")]}),
    "unknown-parameter": request(pipeline_definition={"steps": [step("work", second=1)]}),
    "too-deep": request(pipeline_definition={"steps": [nested(40)]}),
    "too-many": request(pipeline_definition={"steps": [step("work")] * 600}),
    "wrong-type": request(pipeline_definition={"steps": "work"}),
    "unknown-element": request(pipeline_definition={"steps": [{"type": "loop", "steps": []}]}),
    "large": request(pipeline_definition={"steps": [step("work", gate="x" * 8_900_000)]}),
}


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in BAD.items()])
def test_m1_a_message_that_cannot_be_understood_is_one_dead_letter_within_a_second(
    shared: Peers, data: bytes
) -> None:
    runs = len(shared.runs())
    message_id = shared.broker.publish(REQUESTS, data, origin="a test")
    shared.until_settled()

    (letter,) = shared.story().letters()[message_id]
    assert letter.data == data
    published = next(line for line in shared.story().published() if line.message.id == message_id)
    assert letter.at - published.at < 1
    assert len(shared.runs()) == runs


def test_m1_a_message_of_attributes_only_is_a_dead_letter_with_them(shared: Peers) -> None:
    message_id = shared.broker.publish(REQUESTS, b"", colour="green")
    shared.until_settled()

    assert len(shared.story().letters()[message_id]) == 1
    (line,) = [
        line
        for line in shared.journal.lines(where=DEAD)
        if line.message.attributes.get("mlworker-source-message-id") == message_id
    ]
    assert line.message.attributes["colour"] == "green"


def test_m1_a_dead_letter_of_a_message_with_a_hundred_attributes_is_kept_by_reference(shared: Peers) -> None:
    attributes = {f"a{number}": "x" * 1024 for number in range(100)}
    message_id = shared.broker.publish(REQUESTS, b"{broken", **attributes)
    shared.until_settled()

    (letter,) = shared.story().letters()[message_id]
    assert letter.data == b""
    assert shared.bucket.names(f"dead-letters/*{message_id}*")


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is huge."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def test_m1_a_picture_that_would_not_fit_into_memory_is_refused_by_its_header(shared: Peers) -> None:
    worker = shared.workers[0]
    shared.bucket.put("acme/originals/bomb.png", bomb(100_000, 100_000), "image/png")
    before = worker.memory()
    sent = shared.send(image_url=f"gs://{BUCKET}/acme/originals/bomb.png")
    shared.until_settled()

    assert (shared.tally(sent).runs, shared.tally(sent).letters) == (0, 1)
    assert worker.memory() - before < 50_000_000


@pytest.mark.parametrize("how", ["raise", "memory", "disk", "transient"])
def test_m2_a_step_that_fails_every_time_is_given_up_after_its_attempts(shared: Peers, how: str) -> None:
    bad = shared.send(step("work", how=how))
    good = shared.send()
    shared.until_settled(60)

    assert shared.tally(bad).letters == 1
    assert shared.tally(bad).runs == (2 if how == "raise" else 5)
    assert shared.tally(good) == ONCE


@pytest.mark.parametrize("how", ["raise", "memory", "disk", "transient"])
def test_m2_a_step_that_fails_once_is_tried_again(shared: Peers, how: str) -> None:
    sent = shared.send(step("work", how=how, times=1))
    shared.until_settled(60)

    tally = shared.tally(sent)
    assert (tally.runs, tally.results, tally.effects, tally.letters) == (2, 1, 1, 0)


def test_after_all_of_them_the_worker_is_well(shared: Peers) -> None:
    sent = shared.send(step("work"), step("detection"))
    shared.until_settled()

    assert shared.tally(sent) == ONCE
    assert [worker.alive for worker in shared.workers] == [True]
