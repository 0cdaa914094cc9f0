"""The dead-letter topic: the original message untouched, with the reason beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from consumer.broker import Delivery, Publisher
from consumer.storage import ObjectStore
from contracts.dead_letter import DeadLetterAttributes, StoredMessage, attribute_of, replays_of

MAX_BYTES = 9_000_000
MAX_ATTRIBUTES = 100
MAX_VALUE_BYTES = 1024
REASON_ATTRIBUTES = frozenset(map(attribute_of, DeadLetterAttributes.model_fields))


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Publishes dead letters and waits for the broker's id."""

    publisher: Publisher
    topic: str
    store: ObjectStore
    bucket: str

    async def publish(self, delivery: Delivery, reason: DeadLetterAttributes) -> str:
        """Publish the message with its reason, by reference when both do not fit, and return the id.

        Raises:
            BrokerError: it was not confirmed.
            StoreUnavailable: the bucket did not take a message too large to be published.
        """
        # A message that cannot be decoded has no job to tell how often it was replayed: it says so itself.
        replays = max(reason.replay_count, replays_of(delivery.attributes))
        reason = reason.model_copy(update={"replay_count": replays})
        # What an earlier death of a replayed message left behind must not be read as this one's.
        own = {name: value for name, value in delivery.attributes.items() if name not in REASON_ATTRIBUTES}
        attributes = {**own, **as_attributes(reason)}
        if _fits(delivery.data, attributes):
            return await self.publisher.publish(self.topic, delivery.data, attributes)
        name = f"dead-letters/{delivery.message_id}"
        stored = StoredMessage(
            data_base64=base64.b64encode(delivery.data).decode(), attributes=dict(delivery.attributes)
        )
        await self.store.write(
            self.bucket, name, stored.model_dump_json().encode(), content_type="application/json"
        )
        check = reason.model_copy(update={"claim_check": f"gs://{self.bucket}/{name}"})
        return await self.publisher.publish(self.topic, b"", as_attributes(check))


def as_attributes(reason: DeadLetterAttributes) -> dict[str, str]:
    """Return the reason as Pub/Sub attributes: prefixed, in text, cut to the allowed bytes."""
    return {name: cut(value) for name, value in reason.attributes().items()}


def cut(text: str, limit: int = MAX_VALUE_BYTES) -> str:
    """Return as much of `text` as fits into `limit` bytes of UTF-8, whole characters only."""
    return text.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


def _fits(data: bytes, attributes: Mapping[str, str]) -> bool:
    size = len(data) + sum(len(key.encode()) + len(value.encode()) for key, value in attributes.items())
    return size <= MAX_BYTES and len(attributes) <= MAX_ATTRIBUTES
