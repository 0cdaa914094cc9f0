"""The broker's two ports: what the worker asks of Pub/Sub, whoever speaks it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of one message: bytes and attributes, and the lease it came with."""

    ack_id: str
    message_id: str
    data: bytes
    attributes: Mapping[str, str]
    publish_time: datetime
    delivery_attempt: int | None
    """The broker's count, approximate; None where the subscription has no dead-letter policy."""


class BrokerError(Exception):
    """The broker did not do what it was asked."""


class BrokerUnavailable(BrokerError):
    """It could not be reached, or had a bad moment: trying again may help."""


class BrokerMisconfigured(BrokerError):
    """The topic or subscription does not exist, or we may not use it: an operator must act."""


class MessageTooLarge(BrokerError):
    """The message is over Pub/Sub's limits of bytes or attributes."""


class LeaseLost(BrokerError):
    """The broker says that these ack ids hold no lease: the messages are, or will be, delivered again.

    Attributes:
        ack_ids: the leases that are over.
        undecided: those of which it could not say anything just now. All others of the call were accepted.
    """

    def __init__(self, ack_ids: Collection[str], undecided: Collection[str] = ()) -> None:
        super().__init__(f"{len(ack_ids)} lease(s) are over: {', '.join(sorted(ack_ids)[:3])}")
        self.ack_ids = frozenset(ack_ids)
        self.undecided = frozenset(undecided)


class Subscriber(Protocol):
    """Leases messages from one subscription. Every call is bounded in time.

    All raise `BrokerUnavailable` or `BrokerMisconfigured`.
    """

    async def pull(self, max_messages: int) -> Sequence[Delivery]:
        """Wait for messages and return at most `max_messages` of them; none after a while is no error."""
        ...

    async def acknowledge(self, ack_ids: Sequence[str]) -> None:
        """Say that the messages are done. Returns when the broker has confirmed, after bounded retries.

        Raises:
            LeaseLost: naming those that were refused; the others are done.
        """
        ...

    async def modify_deadline(self, ack_ids: Sequence[str], seconds: int) -> None:
        """Set how long the leases last from now; 0 hands the messages back at once.

        Raises:
            LeaseLost: naming those that were refused.
        """
        ...

    async def close(self) -> None:
        """Release the connection; a pull that waits ends with no messages."""
        ...


class Publisher(Protocol):
    """Publishes to topics. Every call is bounded in time."""

    async def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        """Publish one message and return the id the broker gave it.

        Raises:
            BrokerUnavailable: not confirmed in time; it may have been stored all the same.
            BrokerMisconfigured: no such topic, or no permission.
            MessageTooLarge: over the limits of Pub/Sub.
        """
        ...

    async def close(self) -> None:
        """Release the connection."""
        ...
