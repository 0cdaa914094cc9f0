"""The embedded broker: topics, their subscriptions, and the way of a message from one to the others."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from consumer.local.pubsub.journal import Deed, Note, no_note
from consumer.local.pubsub.messages import (
    DELETED_TOPIC,
    AlreadyExists,
    DeadLetterPolicy,
    Invalid,
    Message,
    NotFound,
    SubscriptionConfig,
)
from consumer.local.pubsub.subscriptions import Changed, Subscription

MAX_MESSAGE_BYTES = 10_000_000
MAX_MESSAGES_PER_PUBLISH = 1000
MAX_ATTRIBUTES = 100
MAX_KEY_BYTES = 256
MAX_VALUE_BYTES = 1024

_NAME = re.compile(r"projects/[^/]+/(topics|subscriptions)/(?!goog)[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}")


@dataclass(frozen=True, slots=True)
class Draft:
    """A message on its way in: it has no id yet."""

    data: bytes
    attributes: Mapping[str, str]
    ordering_key: str = ""


class Broker:
    """All topics and subscriptions, in memory, driven by a clock from outside. Not thread-safe."""

    def __init__(
        self,
        now: Callable[[], float],
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        changed: Changed = lambda _: None,
        note: Note = no_note,
    ) -> None:
        self.now = now
        self._note = note
        self._wall = wall
        self._changed = changed
        self._topics: dict[str, list[Subscription]] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._ids = itertools.count(1)

    # Topics

    def create_topic(self, name: str) -> None:
        """Create a topic; its full name is `projects/P/topics/T`."""
        _check_name(name, "topics")
        if name in self._topics:
            raise AlreadyExists(f"Topic already exists: {name}")
        # A topic of the same name does not get back the subscriptions of the deleted one.
        self._topics[name] = []

    def delete_topic(self, name: str) -> None:
        """Delete a topic. Its subscriptions keep what they have and get nothing new."""
        self.require_topic(name)
        for subscription in self._topics.pop(name):
            subscription.config = replace(subscription.config, topic=DELETED_TOPIC)

    def require_topic(self, name: str) -> None:
        """Raise NotFound unless the topic exists."""
        if name not in self._topics:
            raise NotFound(f"Topic not found: {name}")

    def topics(self, project: str) -> list[str]:
        """The names of the topics of `projects/P`."""
        return sorted(name for name in self._topics if name.startswith(f"{project}/"))

    def publish(self, topic: str, drafts: Sequence[Draft]) -> list[str]:
        """Give every subscription of the topic the messages; all are taken or none."""
        self.require_topic(topic)
        if not drafts:
            raise Invalid("No messages to publish")
        if len(drafts) > MAX_MESSAGES_PER_PUBLISH:
            raise Invalid(f"At most {MAX_MESSAGES_PER_PUBLISH} messages are taken in one request")
        for draft in drafts:
            check_limits(draft)
        return [self._add(topic, draft) for draft in drafts]

    # Subscriptions

    def create_subscription(self, config: SubscriptionConfig) -> Subscription:
        """Create a subscription; it gets what is published from now on."""
        _check_name(config.name, "subscriptions")
        if config.name in self._subscriptions:
            raise AlreadyExists(f"Subscription already exists: {config.name}")
        self.require_topic(config.topic)
        if config.dead_letter is not None:
            self.require_topic(config.dead_letter.topic)
        subscription = Subscription(config, self._forward, self._changed, self._note)
        self._subscriptions[config.name] = subscription
        self._topics[config.topic].append(subscription)
        return subscription

    def delete_subscription(self, name: str) -> None:
        """Delete a subscription and its backlog."""
        subscription = self.subscription(name)
        del self._subscriptions[name]
        if subscription.config.topic in self._topics:
            self._topics[subscription.config.topic].remove(subscription)

    def subscription(self, name: str) -> Subscription:
        """The subscription of that full name.

        Raises:
            NotFound: there is none.
        """
        try:
            return self._subscriptions[name]
        except KeyError:
            raise NotFound(f"Subscription does not exist: {name}") from None

    def subscriptions(self, project: str) -> list[Subscription]:
        """The subscriptions of `projects/P`, by name."""
        return [s for name, s in sorted(self._subscriptions.items()) if name.startswith(f"{project}/")]

    def sweep(self) -> None:
        """End the leases whose time is over."""
        now = self.now()
        for subscription in self._subscriptions.values():
            subscription.expire(now)

    def due(self) -> list[str]:
        """The subscriptions that have something to deliver now."""
        now = self.now()
        return [name for name, subscription in self._subscriptions.items() if subscription.due(now)]

    def next_event(self) -> float | None:
        """When the next lease ends or the next resting message is due."""
        now = self.now()
        moments = [s.next_event(now) for s in self._subscriptions.values()]
        return min((moment for moment in moments if moment is not None), default=None)

    def _add(self, topic: str, draft: Draft) -> str:
        message = Message(
            id=str(next(self._ids)),
            data=draft.data,
            attributes=dict(draft.attributes),
            published=self._wall(),
            ordering_key=draft.ordering_key,
        )
        self._note(Deed.PUBLISHED, topic, message, "")
        now = self.now()
        for subscription in self._topics[topic]:
            subscription.add(message, now)
        return message.id

    def _forward(
        self, source: SubscriptionConfig, policy: DeadLetterPolicy, message: Message, attempts: int
    ) -> bool:
        if policy.topic not in self._topics:
            return False
        _, project, _, short_name = source.name.split("/")
        # These four names, and a new message id, are what the real service does. Its limit of 100
        # attributes is not applied to them.
        origin = {
            "CloudPubSubDeadLetterSourceDeliveryCount": str(attempts),
            "CloudPubSubDeadLetterSourceSubscription": short_name,
            "CloudPubSubDeadLetterSourceSubscriptionProject": project,
            "CloudPubSubDeadLetterSourceTopicPublishTime": message.published.isoformat(
                timespec="milliseconds"
            ).replace("+00:00", "Z"),
        }
        self._add(policy.topic, Draft(message.data, {**message.attributes, **origin}, message.ordering_key))
        return True


def check_limits(draft: Draft) -> None:
    """Refuse what the real service refuses."""
    if not draft.data and not draft.attributes:
        raise Invalid("Some messages are empty: a message needs data or at least one attribute")
    if len(draft.attributes) > MAX_ATTRIBUTES:
        raise Invalid(f"A message has at most {MAX_ATTRIBUTES} attributes, not {len(draft.attributes)}")
    size = len(draft.data) + len(draft.ordering_key.encode())
    for key, value in draft.attributes.items():
        key_bytes, value_bytes = len(key.encode()), len(value.encode())
        if not 0 < key_bytes <= MAX_KEY_BYTES:
            raise Invalid(f"An attribute's key has 1 to {MAX_KEY_BYTES} bytes, not {key_bytes}")
        if key.startswith("goog") and not key.startswith("googclient_"):
            raise Invalid(f"Attribute keys must not start with 'goog': {key}")
        if value_bytes > MAX_VALUE_BYTES:
            raise Invalid(
                f"An attribute's value has at most {MAX_VALUE_BYTES} bytes, not {value_bytes}: {key}"
            )
        size += key_bytes + value_bytes
    if size > MAX_MESSAGE_BYTES:
        raise Invalid(f"A message has at most {MAX_MESSAGE_BYTES} bytes, not {size}")


def _check_name(name: str, kind: str) -> None:
    match = _NAME.fullmatch(name)
    if match is None or match[1] != kind:
        raise Invalid(f"Invalid [{kind}] name: (name={name})")
