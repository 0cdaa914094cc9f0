"""Between Google's protobuf messages and the broker's own words.

The protobuf classes are those inside `google.pubsub_v1.types`: the wrappers around them cost several
times as much per message and add nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import any_pb2, duration_pb2, empty_pb2
from google.pubsub_v1 import types
from google.rpc import error_details_pb2, status_pb2

from consumer.local.pubsub.messages import (
    MIN_ACK_DEADLINE,
    DeadLetterPolicy,
    Invalid,
    Leased,
    RetryPolicy,
    SubscriptionConfig,
)
from consumer.local.pubsub.topics import Draft

Empty = empty_pb2.Empty
ReceivedMessage = types.ReceivedMessage.pb()
Subscription = types.Subscription.pb()
SubscriptionProperties = types.StreamingPullResponse.SubscriptionProperties.pb()

_DEFAULT_RETENTION = duration_pb2.Duration(seconds=7 * 86400)
_UPDATABLE = frozenset(
    {
        "ack_deadline_seconds",
        "dead_letter_policy",
        "enable_exactly_once_delivery",
        "expiration_policy",
        "labels",
        "message_retention_duration",
        "retain_acked_messages",
        "retry_policy",
    }
)


def with_defaults(subscription: Any) -> Any:
    """A copy of the subscription with what the real service fills in."""
    filled = Subscription()
    filled.CopyFrom(subscription)
    if not filled.ack_deadline_seconds:
        filled.ack_deadline_seconds = MIN_ACK_DEADLINE
    if not filled.HasField("message_retention_duration"):
        filled.message_retention_duration.CopyFrom(_DEFAULT_RETENTION)
    if filled.HasField("retry_policy"):
        policy = filled.retry_policy
        if not policy.HasField("minimum_backoff"):
            policy.minimum_backoff.FromSeconds(10)
        if not policy.HasField("maximum_backoff"):
            policy.maximum_backoff.FromSeconds(600)
    if filled.HasField("dead_letter_policy") and not filled.dead_letter_policy.max_delivery_attempts:
        filled.dead_letter_policy.max_delivery_attempts = 5
    return filled


def updated(current: Any, wanted: Any, paths: Iterable[str]) -> Any:
    """The subscription with the named fields taken from `wanted`."""
    merged = Subscription()
    merged.CopyFrom(current)
    for path in paths:
        if path not in _UPDATABLE:
            raise Invalid(f"update_mask: cannot update {path}; possible: {', '.join(sorted(_UPDATABLE))}")
        merged.ClearField(path)
        only = Subscription()
        only.CopyFrom(wanted)
        for field, _ in wanted.ListFields():
            if field.name != path:
                only.ClearField(field.name)
        merged.MergeFrom(only)
    return with_defaults(merged)


def config_of(subscription: Any) -> SubscriptionConfig:
    """What the broker needs to know of a subscription.

    Raises:
        Invalid: a value is out of bounds, or asks for what this broker does not do.
    """
    if subscription.filter:
        raise Invalid("filter: the embedded broker delivers every message; filter in the consumer")
    if subscription.push_config.push_endpoint:
        raise Invalid("push_config: the embedded broker does not push")
    retry = dead_letter = None
    if subscription.HasField("retry_policy"):
        policy = subscription.retry_policy
        retry = RetryPolicy(_seconds(policy.minimum_backoff), _seconds(policy.maximum_backoff))
    if subscription.HasField("dead_letter_policy"):
        dead = subscription.dead_letter_policy
        dead_letter = DeadLetterPolicy(dead.dead_letter_topic, dead.max_delivery_attempts)
    return SubscriptionConfig(
        name=subscription.name,
        topic=subscription.topic,
        ack_deadline=subscription.ack_deadline_seconds,
        retry=retry,
        dead_letter=dead_letter,
        ordered=subscription.enable_message_ordering,
        exactly_once=subscription.enable_exactly_once_delivery,
    )


def draft_of(message: Any) -> Draft:
    """A message somebody publishes."""
    return Draft(message.data, dict(message.attributes), message.ordering_key)


def received(leased: Leased) -> Any:
    """One delivery, as `Pull` and `StreamingPull` send it."""
    wire = ReceivedMessage(ack_id=leased.ack_id, delivery_attempt=leased.attempt or 0)
    message = wire.message
    message.data = leased.message.data
    message.message_id = leased.message.id
    message.ordering_key = leased.message.ordering_key
    message.publish_time.FromDatetime(leased.message.published)
    message.attributes.update(leased.message.attributes)
    return wire


def stale_ack_status(code: int, message: str, ack_ids: Iterable[str]) -> bytes:
    """The detail by which exactly-once clients learn which of their ack ids were refused."""
    info = error_details_pb2.ErrorInfo(
        reason="EXACTLY_ONCE_ACKID_FAILURE",
        domain="pubsub.googleapis.com",
        metadata=dict.fromkeys(ack_ids, "PERMANENT_FAILURE_INVALID_ACK_ID"),
    )
    detail = any_pb2.Any()
    detail.Pack(info)
    serialized: bytes = status_pb2.Status(code=code, message=message, details=[detail]).SerializeToString()
    return serialized


def _seconds(duration: Any) -> float:
    return float(duration.seconds + duration.nanos / 1e9)
