"""What the embedded broker keeps, what it is told, and how it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

MIN_ACK_DEADLINE = 10
MAX_ACK_DEADLINE = 600
DELETED_TOPIC = "_deleted-topic_"
"""What a subscription's topic is called once the topic is gone; the subscription itself lives on."""


class Refused(Exception):
    """The broker refuses a request; subclasses say with which status."""


class NotFound(Refused):
    """No such topic or subscription."""


class AlreadyExists(Refused):
    """The name is taken."""


class Invalid(Refused):
    """A value is missing, malformed or out of its bounds."""


class StaleAckIds(Refused):
    """An exactly-once subscription was given ack ids whose lease is over."""

    def __init__(self, ack_ids: frozenset[str]) -> None:
        super().__init__(f"{len(ack_ids)} ack id(s) no longer hold a lease")
        self.ack_ids = ack_ids


@dataclass(frozen=True, slots=True)
class Message:
    """One published message, shared by all subscriptions of its topic."""

    id: str
    data: bytes
    attributes: Mapping[str, str]
    published: datetime
    ordering_key: str = ""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a message rests after each failed delivery: doubling, per message."""

    minimum: float = 10.0
    maximum: float = 600.0

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum <= 600:
            raise Invalid("retry_policy: 0 <= minimum_backoff <= maximum_backoff <= 600 s is required")

    def rest(self, failures: int) -> float:
        """Seconds until the delivery after this many failed ones."""
        # The exponent is bounded because a message without dead-letter policy may fail for ever.
        return min(self.maximum, self.minimum * 2.0 ** min(failures - 1, 60))


@dataclass(frozen=True, slots=True)
class DeadLetterPolicy:
    """Where a message goes that was not acked in so many deliveries."""

    topic: str
    max_delivery_attempts: int = 5

    def __post_init__(self) -> None:
        if not 5 <= self.max_delivery_attempts <= 100:
            raise Invalid("dead_letter_policy: max_delivery_attempts must be between 5 and 100")


@dataclass(frozen=True, slots=True)
class SubscriptionConfig:
    """A subscription as its owner describes it."""

    name: str
    topic: str
    ack_deadline: int = MIN_ACK_DEADLINE
    retry: RetryPolicy | None = None
    dead_letter: DeadLetterPolicy | None = None
    ordered: bool = False
    exactly_once: bool = False

    def __post_init__(self) -> None:
        if not MIN_ACK_DEADLINE <= self.ack_deadline <= MAX_ACK_DEADLINE:
            raise Invalid("ack_deadline_seconds must be between 10 and 600")


@dataclass(frozen=True, slots=True)
class Leased:
    """One delivery: the message, the id that acks it, and which attempt it is."""

    ack_id: str
    message: Message
    attempt: int | None
    """Counted from 1; None where the subscription has no dead-letter policy, as in the real service."""


@dataclass(slots=True)
class Holder:
    """What one streaming client holds, so that the broker can honour the client's limits."""

    messages: int = 0
    bytes: int = 0
