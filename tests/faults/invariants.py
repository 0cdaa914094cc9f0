"""The promises of the design, checked against what the peers saw; each returns what breaks it."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.faults.backend import image_id_of
from tests.faults.history import image_of, most_at_once
from tests.faults.peers import SLOTS, Peers


def judge(peers: Peers, *, slots: int = SLOTS, settled: bool = True) -> None:
    """Assert every invariant that holds whatever the fault was.

    Args:
        peers: who saw it.
        slots: how many pipelines one worker may run at once.
        settled: whether the queue is expected to be empty by now.
    """
    broken = list(broken_promises(peers, slots=slots, settled=settled))
    assert not broken, "\n".join(broken)


def broken_promises(peers: Peers, *, slots: int = SLOTS, settled: bool = True) -> Iterator[str]:
    """Yield what breaks any of them."""
    yield from nothing_is_lost(peers, settled=settled)
    yield from acked_only_when_done(peers)
    yield from one_identity(peers)
    yield from one_effect(peers)
    yield from never_more_runs_than_slots(peers, slots)
    yield from records_are_complete(peers)
    yield from recorded_work_is_not_done_again(peers)
    if settled:
        yield from nothing_is_left_behind(peers)


def nothing_is_lost(peers: Peers, *, settled: bool) -> Iterator[str]:
    """I1, first half: every request is acked, or still there."""
    story = peers.story()
    acked = story.acked()
    left = [line.message.id for line in story.published() if line.message.id not in acked]
    if settled and left:
        yield f"I1: not acked: {left}"
    elif len(left) != peers.broker.backlog(story.subscription):
        yield f"I1: {len(left)} are not acked, {peers.broker.backlog(story.subscription)} are there"


def acked_only_when_done(peers: Peers) -> Iterator[str]:
    """I1: before its ack a message's result was published and its callback accepted, or its dead letter."""
    story = peers.story()
    results, letters = story.published_results(), story.letters()
    effects: dict[str, float] = {}
    for effect in list(peers.backend.effects):
        effects.setdefault(effect.image_id, effect.at)
    data = {line.message.id: line.message.data for line in story.published()}
    # What a bucket says may need nothing done; the tests of those messages know which.
    notices = {line.message.id for line in story.published() if "eventType" in line.message.attributes}
    for message_id, at in story.acked().items():
        if message_id in notices:
            continue
        if any(letter.at <= at for letter in letters.get(message_id, [])):
            continue
        image_id = image_of(data[message_id])
        if not any(result.at <= at for result in results.get(image_id or "", [])):
            yield f"I1: {message_id} was acked without a result or a dead letter"
        elif effects.get(image_id or "", float("inf")) > at:
            yield f"I1: {message_id} was acked without a callback that took effect"


def one_identity(peers: Peers) -> Iterator[str]:
    """I2: all that is said of one request carries one id."""
    ids_of: dict[str, set[str]] = defaultdict(set)
    for image_id, results in peers.story().published_results().items():
        ids_of[image_id] |= {result.result_id for result in results}
    for received in peers.backend.received():
        ids_of[image_id_of(json.loads(received.body))].add(received.headers["idempotency-key"])
    for image_id in {sent.image_id for sent in peers.sent}:
        ids = ids_of[image_id]
        if len(ids) > 1:
            yield f"I2: image {image_id} goes by {len(ids)} ids: {sorted(ids)}"


def one_effect(peers: Peers) -> Iterator[str]:
    """I3: no key takes effect twice at a backend that knows it again."""
    if not peers.backend.deduplicates:
        return
    for key, times in Counter(effect.key for effect in list(peers.backend.effects)).items():
        if times > 1:
            yield f"I3: key {key} took effect {times} times"


def never_more_runs_than_slots(peers: Peers, slots: int) -> Iterator[str]:
    """I8: no process ran more pipelines at once than it has slots."""
    runs = peers.runs()
    for pid in {run.pid for run in runs}:
        most = most_at_once(run for run in runs if run.pid == pid)
        if most > slots:
            yield f"I8: process {pid} ran {most} pipelines at once on {slots} slots"


def records_are_complete(peers: Peers) -> Iterator[str]:
    """I2: what was published is recorded, and nothing half-written lies about."""
    for name, stored in dict(peers.bucket.objects).items():
        if name.endswith((".json", ".failed")) and not stored.data:
            yield f"I2: {name} is empty"
        if name.endswith((".tmp", ".part")):
            yield f"a temporary file was left: {name}"


def recorded_work_is_not_done_again(peers: Peers) -> Iterator[str]:
    """I2: no pipeline is started for an image whose result was recorded."""
    recorded: dict[str, float] = {}
    for stored in list(peers.bucket.writes):
        *_, image_id, name = ("", "", *stored.name.split("/"))
        if name.endswith(".json"):
            recorded.setdefault(image_id, stored.at)
    for run in peers.runs():
        at = recorded.get(run.image_id)
        if at is not None and run.start > at:
            yield f"I2: image {run.image_id} was run {run.start - at:.2f} s after its result was recorded"


def nothing_is_left_behind(peers: Peers, patience: float = 3.0) -> Iterator[str]:
    """What only the work itself needs is gone soon after it is done."""
    end = time.monotonic() + patience
    while (left := [*_held(peers), *peers.bucket.names("*.attempts")]) and time.monotonic() < end:
        time.sleep(0.05)
    yield from (f"left behind: {name}" for name in left)


def _held(peers: Peers) -> Iterator[str]:
    """Yield the claims that somebody has not let go of."""
    for name in peers.bucket.names("*.claim"):
        if json.loads(peers.bucket.objects[name].data)["state"] in ("waiting", "running"):
            yield name
