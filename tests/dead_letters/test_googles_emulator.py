"""The commands against Google's own emulator, whose pulls, leases and topics are Google's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.api_core.exceptions import DeadlineExceeded
from google.pubsub_v1 import types

from consumer.outbound.dead_letter import as_attributes
from tests.command import mlworker
from tests.conformance.broker_clients import Admin
from tests.dead_letters.postbox import reason, request

pytestmark = pytest.mark.emulator

PROJECT = "dead-letters"
REQUESTS, DEAD = (f"projects/{PROJECT}/topics/{name}" for name in ("requests", "dead-letters"))
WORK, DEAD_SUB = (f"projects/{PROJECT}/subscriptions/{name}" for name in ("work", "dead-letters"))


@pytest.fixture
def admin(google_emulator: str) -> Iterator[Admin]:
    admin = Admin(google_emulator)
    for topic in (REQUESTS, DEAD):
        admin.topics.create_topic(name=topic)
    dead_letters = types.DeadLetterPolicy(dead_letter_topic=DEAD, max_delivery_attempts=5)
    for subscription in (
        types.Subscription(name=DEAD_SUB, topic=DEAD, ack_deadline_seconds=600),
        types.Subscription(
            name=WORK, topic=REQUESTS, ack_deadline_seconds=60, dead_letter_policy=dead_letters
        ),
    ):
        admin.subscriptions.create_subscription(request=subscription)
    yield admin
    admin.close()


def taken(admin: Admin, subscription: str, count: int) -> list[Any]:
    """So many messages, acked."""
    found: list[Any] = []
    end = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < end, f"{len(found)} of {count} came"
        answer = admin.subscriptions.pull(subscription=subscription, max_messages=100, timeout=20)
        found += answer.received_messages
        admin.subscriptions.acknowledge(
            subscription=subscription, ack_ids=[one.ack_id for one in answer.received_messages]
        )
    return found


def refuse(admin: Admin, times: int) -> None:
    """Hand the message back until the emulator forwards it."""
    for _ in range(times):
        [given] = admin.subscriptions.pull(subscription=WORK, max_messages=1, timeout=30).received_messages
        admin.subscriptions.modify_ack_deadline(
            subscription=WORK, ack_ids=[given.ack_id], ack_deadline_seconds=0
        )
    with suppress(DeadlineExceeded):  # it forwards when it would deliver once more
        assert not admin.subscriptions.pull(subscription=WORK, max_messages=1, timeout=3).received_messages


def until_seen(count: int, look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Look until so many are there."""
    end = time.monotonic() + 60
    while (seen := look())["seen"] < count:
        assert time.monotonic() < end, f"{seen['seen']} of {count} came"
    assert seen["saw_all"]
    return seen


def test_looking_and_replaying(admin: Admin, google_emulator: str, tmp_path: Path) -> None:
    variables = {
        "GOOGLE_CLOUD_PROJECT": PROJECT,
        "DEAD_LETTER_SUBSCRIPTION": "dead-letters",
        "PUBSUB_EMULATOR_HOST": google_emulator,
    }

    def told(*words: str | Path) -> dict[str, Any]:
        done = mlworker("dead-letters", *words, "--wait", "1.5", "--json", **variables)
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    for i in range(30):
        why = reason(
            error_code="object_missing" if i % 3 else "model_mismatch",
            source_subscription=WORK,
            result_id=f"r{i}",
        )
        admin.publish(DEAD, data=request(i), attributes={"origin": "test", **as_attributes(why)})
    admin.publish(REQUESTS, data=request(30), attributes={"origin": "test"})
    refuse(admin, 5)

    stats = until_seen(31, lambda: told("stats"))
    assert stats["stats"]["code"] == {"object_missing": 20, "model_mismatch": 10, "not_acked": 1}
    assert stats["stats"]["source"] == {WORK: 31}
    audit = ["--audit", tmp_path / "audit.jsonl"]
    first = told("replay", "--code", "model_mismatch", *audit)
    second = told("replay", "--code", "not_acked", *audit)
    assert (len(first["replayed"]), len(second["replayed"])) == (10, 1)
    replays = taken(admin, WORK, 11)
    images = sorted(json.loads(one.message.data)["image_id"] for one in replays)
    assert images == sorted(json.loads(request(i))["image_id"] for i in (*range(0, 30, 3), 30))
    assert all(
        dict(one.message.attributes)
        == {"origin": "test", "mlworker-replay-count": "1", "mlworker-replay-for": WORK}
        for one in replays
    )
    assert told("list")["seen"] == 20
