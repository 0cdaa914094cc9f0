"""What a dead letter says of itself, whoever gave the message up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from consumer.dead_letters.envelope import (
    FORWARDED,
    Original,
    Subject,
    body_of,
    original_of,
    read_envelope,
    replay_attributes,
    subject_of,
)
from consumer.outbound.dead_letter import REASON_ATTRIBUTES
from tests.dead_letters.postbox import WORK, PostBox, delivery, letter_of, reason, request
from tests.dead_letters.test_holding import pulled

FORWARDING = {
    "CloudPubSubDeadLetterSourceDeliveryCount": "5",
    "CloudPubSubDeadLetterSourceSubscription": "work",
    "CloudPubSubDeadLetterSourceSubscriptionProject": "nursery",
}


def forwarded(published: datetime, **more: str) -> dict[str, str]:
    stamp = published.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {**FORWARDING, "CloudPubSubDeadLetterSourceTopicPublishTime": stamp, **more}


def test_the_workers_own_envelope_is_understood() -> None:
    why = reason(result_id="r1", trace_id="t1", replay_count=2)
    letter = read_envelope(letter_of(b"body", {"origin": "test"}, **why.model_dump(exclude_none=True)))

    assert (letter.envelope, letter.code, letter.failure_class) == ("worker", why.error_code, "permanent")
    assert (letter.message, letter.step_path, letter.attempts) == (why.error_message, "steps.1", 1)
    assert (letter.replay_count, letter.source_subscription) == (2, WORK)
    assert (letter.failed_at, letter.source_publish_time) == (why.failed_at, why.source_publish_time)
    assert letter.names == {"7", "source-1", "r1"}
    assert letter.original == Original(b"body", {"origin": "test"})


def test_the_envelope_of_pubsubs_own_policy_is_understood(post: PostBox) -> None:
    before = datetime.now(UTC)
    post.forward(b"body", origin="test", **{"mlworker-replay-count": "2"})
    [given] = pulled(post)
    letter = read_envelope(given)

    assert (letter.envelope, letter.code, letter.failure_class) == ("pubsub", FORWARDED, None)
    assert letter.message == "not acked in 5 deliveries; Pub/Sub forwarded it"
    assert (letter.attempts, letter.source_subscription) == (5, f"{WORK}-forwarding")
    assert letter.source_publish_time is not None
    assert before - timedelta(seconds=1) <= letter.source_publish_time <= datetime.now(UTC)
    assert letter.replay_count == 2
    assert letter.original == Original(b"body", {"origin": "test"})


def test_a_message_without_any_reason_is_a_dead_letter_too() -> None:
    letter = read_envelope(delivery(b"body", {"origin": "hand"}))

    assert (letter.envelope, letter.code, letter.source_subscription) == ("none", "unknown", None)
    assert letter.original == Original(b"body", {"origin": "hand"})


@pytest.mark.parametrize("changed", [{"mlworker-attempts": "many"}, {"mlworker-failed-at": "yesterday"}])
def test_a_reason_that_was_tampered_with_is_none(changed: dict[str, str]) -> None:
    given = letter_of(b"body")

    assert read_envelope(delivery(b"body", {**given.attributes, **changed})).envelope == "none"


def test_of_two_deaths_the_later_one_counts() -> None:
    died = datetime(2026, 3, 1, 12, tzinfo=UTC)
    worker_first = letter_of(b"", forwarded(died + timedelta(hours=1)), failed_at=died)
    pubsub_first = letter_of(b"", forwarded(died - timedelta(hours=1)), failed_at=died)

    assert read_envelope(worker_first).envelope == "pubsub"
    assert read_envelope(pubsub_first).envelope == "worker"
    assert read_envelope(worker_first).original == read_envelope(pubsub_first).original == Original(b"", {})


def test_times_without_a_zone_are_utc() -> None:
    given = letter_of(b"")
    letter = read_envelope(delivery(b"", {**given.attributes, "mlworker-failed-at": "2026-03-01T12:00:00"}))

    assert letter.failed_at == datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_replay_has_the_originals_attributes_and_nothing_of_its_deaths() -> None:
    given = letter_of(b"x", forwarded(datetime.now(UTC), origin="test", **{"mlworker-force": "1"}))
    original = original_of(b"x", {**given.attributes, "mlworker-replay-for": "somebody"})

    assert original.attributes == {"origin": "test", "mlworker-force": "1"}
    assert replay_attributes(original, 3, WORK) == {
        "origin": "test",
        "mlworker-force": "1",
        "mlworker-replay-count": "3",
        "mlworker-replay-for": WORK,
    }
    assert not set(replay_attributes(original, 3, WORK)) & (REASON_ATTRIBUTES - {"mlworker-replay-count"})


def test_what_a_message_is_about_is_told_as_far_as_it_can_be_read() -> None:
    notification = {"eventType": "OBJECT_FINALIZE", "bucketId": "photos", "objectId": "acme/originals/1.jpg"}

    assert subject_of(Original(request(5), {})) == Subject("acme", "gs://photos/acme/originals/5.jpg")
    assert subject_of(Original(b"", notification)) == Subject(None, "gs://photos/acme/originals/1.jpg")
    assert subject_of(Original(b'{"tenant_id": 5}', {})) == Subject()
    for body in (b"", b"\xff", b"[1]", b"[" * 2000 + b"]" * 2000):
        assert subject_of(Original(body, {})) == Subject()


def test_json_nested_too_deep_to_be_written_again_is_shown_as_bytes() -> None:
    assert body_of(b'{"a":' * 300 + b"1" + b"}" * 300) is None
