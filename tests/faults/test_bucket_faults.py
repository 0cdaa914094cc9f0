"""The bucket refuses, forgets, truncates, is full, is away: recorded work is never done again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.faults.bucket import name_of
from tests.faults.invariants import judge
from tests.faults.peers import BUCKET, ONCE, RESULTS, Peers, Sent, Tally, open_peers, small_jpeg, step
from tests.faults.worker import Worker

LARGEST = 100_000
"""MAX_IMAGE_BYTES of these tests."""


@pytest.fixture(scope="module")
def module_peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with open_peers(tmp_path_factory.mktemp("bucket")) as peers:
        peers.worker(MAX_IMAGE_BYTES=str(LARGEST)).until_ready()
        yield peers
        judge(peers)


@pytest.fixture
def shared(module_peers: Peers) -> Iterator[Peers]:
    """Peers with one worker, for faults that leave no trace in it."""
    yield module_peers
    module_peers.bucket.heal()
    module_peers.bucket.is_there = True


def worker_of(peers: Peers) -> Worker:
    return peers.workers[0]


def send_with_photo(peers: Peers, data: bytes | None = None, name: str = "") -> tuple[str, Sent]:
    """Publish a request about a photo of its own; return the photo's name too."""
    name = name or f"acme/originals/{uuid4()}.jpg"
    peers.bucket.put(name, small_jpeg() if data is None else data)
    return name, peers.send(image_url=f"gs://{BUCKET}/{name}")


# ------------------------------------------------------------------------------- the photo


@pytest.mark.parametrize("kind", ["stat", "media"])
@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_g1_a_bad_moment_while_the_photo_is_read_passes(shared: Peers, kind: str, status: int) -> None:
    fault = shared.bucket.fail(kind, "*.jpg", status=status, times=2)
    _, sent = send_with_photo(shared)
    shared.until_settled()

    assert fault.hits == 2
    assert shared.tally(sent) == ONCE


@pytest.mark.parametrize(
    "how",
    [{"cut": "half"}, {"cut": "reset"}, {"flip": True}, {"body": b""}, {"status": 404}, {"delay": 1.0}],
    ids=lambda how: "-".join(map(str, *how.items())),
)  # fmt: skip
def test_g1_bytes_that_did_not_arrive_as_they_were_stored_are_read_again(
    shared: Peers, how: dict[str, Any]
) -> None:
    fault = shared.bucket.fail("media", "*.jpg", times=1, **how)
    _, sent = send_with_photo(shared)
    shared.until_settled()

    assert fault.hits == 1
    assert shared.tally(sent) == ONCE


def test_g1_a_photo_that_arrives_after_its_message_is_waited_for(shared: Peers) -> None:
    fault = shared.bucket.fail("stat", "*.jpg", status=404, times=2)
    _, sent = send_with_photo(shared)
    shared.until_settled()

    assert fault.hits == 2
    assert shared.tally(sent) == ONCE


def test_g1_a_photo_that_never_arrives_is_a_dead_letter(shared: Peers) -> None:
    sent = shared.send(image_url=f"gs://{BUCKET}/acme/originals/never.jpg")
    shared.until_settled()

    assert shared.tally(sent) == Tally(runs=0, results=1, calls=1, effects=1, letters=1)


@pytest.mark.parametrize(
    "data", [b"", b"not a picture", small_jpeg()[:200], b"x" * (LARGEST + 1)],
    ids=["empty", "text", "truncated", "too-large"],
)  # fmt: skip
def test_g1_a_photo_that_cannot_be_read_is_a_dead_letter(shared: Peers, data: bytes) -> None:
    name, sent = send_with_photo(shared, data)
    shared.until_settled()

    assert shared.tally(sent) == Tally(runs=0, results=1, calls=1, effects=1, letters=1)
    if len(data) > LARGEST:
        assert shared.bucket.asked("media", name) == 0


@pytest.mark.parametrize("name", ["a b+c.jpg", "100%.jpg", "a#b?c=d&e.jpg", "ñandú/照片.jpg", "é\u0301.jpg"])
def test_g1_a_photo_of_an_odd_name_is_read(shared: Peers, name: str) -> None:
    _, sent = send_with_photo(shared, name=f"acme/originals/{name}")
    shared.until_settled()

    assert shared.tally(sent) == ONCE


@pytest.mark.parametrize(
    "name", ["other/a.jpg", "acme/../other/a.jpg", "acme//a.jpg", "acme/./a.jpg", "acme/a\nb.jpg", "acme"]
)
def test_i7_a_photo_outside_of_the_tenants_folder_is_never_read(shared: Peers, name: str) -> None:
    before = len(shared.bucket.exchanges)
    shared.bucket.put(name, small_jpeg())
    sent = shared.send(image_url=f"gs://{BUCKET}/{name}")
    shared.until_settled()

    tally = shared.tally(sent)
    assert (tally.runs, tally.calls, tally.letters) == (0, 0, 1)
    asked = [exchange.request for exchange in list(shared.bucket.exchanges)[before:]]
    assert [name_of(it) for it in asked if "/results/" not in name_of(it)] == []


@pytest.mark.parametrize("how", [{"status": 403}, {"status": 401}], ids=["403", "401"])
def test_g1_a_bucket_that_refuses_us_is_waited_through(shared: Peers, how: dict[str, Any]) -> None:
    worker = worker_of(shared)
    fault = shared.bucket.fail("stat", "*.jpg", **how)
    _, sent = send_with_photo(shared)
    worker.until(lambda: not worker.ready, "it to be unready until an operator has acted")
    fault.lift()
    shared.until_settled()
    worker.until(lambda: worker.ready, "it to be ready again")

    assert shared.tally(sent) == ONCE


def test_g1_a_bucket_that_is_gone_is_waited_through(shared: Peers) -> None:
    worker = worker_of(shared)
    _, sent = "", shared.send(step("work", seconds=0.5))
    shared.until_running(sent)
    shared.bucket.is_there = False
    worker.until(lambda: not worker.ready, "it to be unready until an operator has acted")
    shared.bucket.is_there = True
    shared.until_settled()
    worker.until(lambda: worker.ready, "it to be ready again")

    assert shared.tally(sent) == ONCE


# ------------------------------------------------------------------------------- the records


@pytest.mark.parametrize(
    ("ending", "body"),
    [("claim", b'"running"'), ("json", b""), ("claim", b'"done"')],
    ids=["claim", "record", "mark"],
)
@pytest.mark.parametrize(
    "how",
    [{"status": 503}, {"status": 429}, {"cut": "reset"}, {"cut": "reset", "applied": True},
     {"status": 503, "applied": True}],
    ids=["503", "429", "cut", "applied-and-cut", "applied-and-503"],
)  # fmt: skip
def test_g1_a_bad_moment_while_a_record_is_written_passes(
    shared: Peers, ending: str, body: bytes, how: dict[str, Any]
) -> None:
    fault = shared.bucket.fail("upload", f"*.{ending}", body, times=2, **how)
    sent = shared.send()
    shared.until_settled()

    assert fault.hits == 2
    assert shared.tally(sent) == ONCE


@pytest.mark.parametrize("status", [500, 507, 403])
def test_o1_a_full_store_holds_the_result_and_the_pipeline_is_not_run_again(
    peers: Peers, status: int
) -> None:
    fault = peers.bucket.fail("upload", "*.json", status=status)
    sent = peers.send()
    peers.worker()
    peers.until(lambda: fault.hits >= 2, "the record to be tried")
    assert not peers.acked(sent)
    fault.lift()
    peers.until_settled(60)

    assert peers.tally(sent) == ONCE
    judge(peers)


@pytest.mark.parametrize(("ending", "how", "runs"), [("failed", "permanent", 1), ("attempts", "raise", 2)])
def test_g1_a_bad_moment_while_a_message_is_given_up_passes(
    shared: Peers, ending: str, how: str, runs: int
) -> None:
    fault = shared.bucket.fail("upload", f"*.{ending}", times=2, status=503)
    sent = shared.send(step("work", how=how))
    shared.until_settled()

    assert fault.hits == 2
    assert shared.tally(sent) == Tally(runs, results=1, calls=1, effects=1, letters=1)


# ------------------------------------------------------------------------------- what a bucket announces

ROUTES = """
routes:
  - bucket: photos
    prefix: "{tenant_id}/camera/"
    pipeline: {steps: [{type: step, name: work}, {type: step, name: keep}]}
"""
CAMERA = "acme/camera/1.jpg"


@pytest.fixture(scope="module")
def module_routed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    folder = tmp_path_factory.mktemp("routed")
    (folder / "routes.yaml").write_text(ROUTES)
    with open_peers(folder) as peers:
        peers.worker(ROUTES_FILE=str(folder / "routes.yaml")).until_ready()
        yield peers
        judge(peers)


@pytest.fixture
def routed(module_routed: Peers) -> Peers:
    """Peers with one worker that listens to what the bucket announces."""
    return module_routed


def results_about(peers: Peers, name: str) -> list[int | None]:
    """The generations of a photo that results were published for."""
    said = [json.loads(line.message.data) for line in peers.journal.lines(where=RESULTS)]
    return [each["image_generation"] for each in said if each["image_url"] == f"gs://{BUCKET}/{name}"]


@pytest.mark.race
def test_g2_a_photo_announced_three_times_is_done_once(routed: Peers) -> None:
    photo = routed.bucket.put("acme/camera/thrice.jpg", small_jpeg())
    for _ in range(3):
        routed.notify(photo.name, photo.generation)
    routed.until_settled()

    assert results_about(routed, photo.name) == [photo.generation]


def test_g2_each_generation_of_a_photo_is_done_or_superseded(routed: Peers) -> None:
    first = routed.bucket.put("acme/camera/again.jpg", small_jpeg())
    second = routed.bucket.put("acme/camera/again.jpg", small_jpeg())
    routed.notify(second.name, second.generation)
    routed.notify(first.name, first.generation)  # out of order, and replaced by now
    routed.until_settled()

    assert results_about(routed, first.name) == [second.generation]


def test_g2_a_photo_deleted_before_it_was_read_is_let_go(routed: Peers) -> None:
    letters = len(routed.story().letters())
    photo = routed.bucket.put("acme/camera/gone.jpg", small_jpeg())
    routed.bucket.remove(photo.name)
    routed.notify(photo.name, photo.generation, "OBJECT_DELETE")
    routed.notify(photo.name, photo.generation)
    routed.until_settled()

    assert results_about(routed, photo.name) == []
    assert len(routed.story().letters()) == letters


@pytest.mark.parametrize("event", ["OBJECT_METADATA_UPDATE", "OBJECT_DELETE", "OBJECT_ARCHIVE", "OBJECT_NEW"])
def test_g2_other_events_start_nothing(routed: Peers, event: str) -> None:
    photo = routed.bucket.put(f"acme/camera/{event}.jpg", small_jpeg())
    routed.notify(photo.name, photo.generation, event)
    routed.until_settled()

    assert results_about(routed, photo.name) == []


@pytest.mark.parametrize(
    "name",
    [
        "acme/camera/processed/1.jpg",
        "acme/camera/x_thumbnails/1.jpg",
        "acme/camera/results/1.jpg",
        "acme/camera/",
    ],
)
def test_g2_what_the_worker_writes_starts_nothing(routed: Peers, name: str) -> None:
    photo = routed.bucket.put(name, small_jpeg())
    routed.notify(photo.name, photo.generation)
    routed.until_settled()

    assert results_about(routed, name) == []


def test_g2_an_output_that_is_announced_starts_nothing_but_a_copy_of_it_does(routed: Peers) -> None:
    own = "acme/camera/own.jpg"
    marked = {"mlworker-output": f"{BUCKET}/{own}"}
    output = routed.bucket.put(own, small_jpeg(), **marked)
    copy = routed.bucket.put("acme/camera/copy.jpg", small_jpeg(), **marked)
    for each in (output, copy):
        routed.notify(each.name, each.generation)
    routed.until_settled()

    assert results_about(routed, own) == []
    assert results_about(routed, copy.name) == [copy.generation]
