"""What a dead letter says of itself, whoever gave the message up: the worker, or Pub/Sub's own policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import orjson
from pydantic import JsonValue, ValidationError

from consumer.broker import Delivery
from consumer.outbound.dead_letter import MAX_ATTRIBUTES, REASON_ATTRIBUTES
from contracts.dead_letter import REPLAY_COUNT, DeadLetterAttributes, replays_of

Envelope = Literal["worker", "pubsub", "none"]

REPLAY_FOR: Final = "mlworker-replay-for"
"""Names the subscription a replay is meant for, so that filters of others can leave it out."""
FORWARDED: Final = "not_acked"
"""The error code of what Pub/Sub forwarded: nobody recorded why it was never acked."""
UNKNOWN: Final = "unknown"
"""The error code of a message that carries no reason at all."""

_FORWARDED_BY_PUBSUB = "CloudPubSubDeadLetterSource"
_COUNT, _SUBSCRIPTION, _PROJECT, _PUBLISHED, _ERROR = (
    f"{_FORWARDED_BY_PUBSUB}{name}"
    for name in (
        "DeliveryCount",
        "Subscription",
        "SubscriptionProject",
        "TopicPublishTime",
        "DeliveryErrorMessage",
    )
)


@dataclass(frozen=True, slots=True)
class Original:
    """The message as it was before it died."""

    data: bytes
    attributes: Mapping[str, str]
    """Without what any death added."""

    @property
    def is_notification(self) -> bool:
        """Whether a bucket sent it: then it is read from its attributes, whatever its body says."""
        return "eventType" in self.attributes and "bucketId" in self.attributes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter."""

    delivery: Delivery
    envelope: Envelope
    code: str
    failure_class: str | None
    message: str
    failed_at: datetime
    attempts: int | None
    replay_count: int
    step_path: str | None = None
    source_subscription: str | None = None
    """Full name of where the message was given up."""
    source_message_id: str | None = None
    source_publish_time: datetime | None = None
    result_id: str | None = None
    worker_version: str | None = None
    trace_id: str | None = None
    claim_check: str | None = None
    """Where the original is, if it did not fit."""
    original: Original | None = None
    """None while it was not fetched by its claim check."""
    unreadable: str = ""
    """Why it could not be fetched."""

    @property
    def id(self) -> str:
        """Its id in the dead-letter topic."""
        return self.delivery.message_id

    @property
    def names(self) -> frozenset[str]:
        """The ids somebody may know it by: its own, the original message's, the result's."""
        return frozenset(name for name in (self.id, self.source_message_id, self.result_id) if name)


@dataclass(frozen=True, slots=True)
class Subject:
    """What a message is about, as far as it can be read."""

    tenant: str | None = None
    """None where only the routes file could tell: notifications name no tenant."""
    photo: str | None = None


def read_envelope(delivery: Delivery) -> DeadLetter:
    """Return what the delivery says of its message's death.

    A message that was forwarded, replayed by another tool and given up again bears the marks of two deaths:
    the later one counts.
    """
    reason = _reason(delivery.attributes)
    published = _moment(delivery.attributes.get(_PUBLISHED, ""))
    if _SUBSCRIPTION in delivery.attributes and (
        reason is None or (published is not None and published > reason.failed_at)
    ):
        return _forwarded(delivery, published)
    if reason is None:
        return DeadLetter(
            delivery,
            "none",
            UNKNOWN,
            None,
            "nothing says why it is here",
            failed_at=delivery.publish_time,
            attempts=None,
            replay_count=replays_of(delivery.attributes),
            original=original_of(delivery.data, delivery.attributes),
        )
    return DeadLetter(
        delivery,
        "worker",
        reason.error_code,
        reason.error_class,
        reason.error_message,
        failed_at=reason.failed_at,
        attempts=reason.attempts,
        replay_count=reason.replay_count,
        step_path=reason.step_path,
        source_subscription=reason.source_subscription,
        source_message_id=reason.source_message_id,
        source_publish_time=reason.source_publish_time,
        result_id=reason.result_id,
        worker_version=reason.worker_version,
        trace_id=reason.trace_id,
        claim_check=reason.claim_check,
        original=None if reason.claim_check else original_of(delivery.data, delivery.attributes),
    )


def original_of(data: bytes, attributes: Mapping[str, str]) -> Original:
    """Return the message without what its deaths and replays added to it."""
    own = {
        name: value
        for name, value in attributes.items()
        if name not in REASON_ATTRIBUTES and name != REPLAY_FOR and not name.startswith(_FORWARDED_BY_PUBSUB)
    }
    return Original(data, own)


def replay_attributes(original: Original, replays: int, subscription: str | None) -> dict[str, str]:
    """Return the attributes of a replay: the original's, how often it was replayed, and for whom it is.

    The last only where there is room: a message is worth more than a convenience.
    """
    attributes = {**original.attributes, REPLAY_COUNT: str(replays)}
    if subscription and len(attributes) < MAX_ATTRIBUTES:
        attributes[REPLAY_FOR] = subscription
    return attributes


def subject_of(original: Original) -> Subject:
    """Return whose photo the message is about, as far as it can be read."""
    if original.is_notification:
        bucket, name = (original.attributes.get(key, "") for key in ("bucketId", "objectId"))
        return Subject(None, f"gs://{bucket}/{name}")
    body = body_of(original.data)
    if not isinstance(body, dict):
        return Subject()
    tenant, photo = body.get("tenant_id"), body.get("image_url")
    return Subject(tenant if isinstance(tenant, str) else None, photo if isinstance(photo, str) else None)


def body_of(data: bytes) -> JsonValue:
    """Return what JSON says; None if it is none, or nested too deep to be written again."""
    try:
        body: JsonValue = orjson.loads(data)
        orjson.dumps(body)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    return body


def _reason(attributes: Mapping[str, str]) -> DeadLetterAttributes | None:
    given = {name: value for name, value in attributes.items() if name in REASON_ATTRIBUTES}
    try:
        reason = DeadLetterAttributes.model_validate(given)
    except ValidationError:  # not by the worker, or not as it was
        return None
    return reason.model_copy(
        update={
            "failed_at": _aware(reason.failed_at),
            "source_publish_time": _aware(reason.source_publish_time),
        }
    )


def _forwarded(delivery: Delivery, published: datetime | None) -> DeadLetter:
    attributes = delivery.attributes
    count = attributes.get(_COUNT, "")
    attempts = int(count) if count.isdecimal() else None
    source = f"projects/{attributes.get(_PROJECT, '')}/subscriptions/{attributes[_SUBSCRIPTION]}"
    said = attributes.get(_ERROR) or f"not acked in {count or 'its'} deliveries; Pub/Sub forwarded it"
    return DeadLetter(
        delivery,
        "pubsub",
        FORWARDED,
        None,
        said,
        failed_at=delivery.publish_time,
        attempts=attempts,
        replay_count=replays_of(attributes),
        source_subscription=source,
        source_publish_time=published,
        original=original_of(delivery.data, attributes),
    )


def _moment(text: str) -> datetime | None:
    try:
        return _aware(datetime.fromisoformat(text))
    except ValueError:
        return None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
