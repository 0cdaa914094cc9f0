"""The broker's own account of every message: what tests judge a worker by."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from consumer.local.pubsub.messages import Message


class Deed(StrEnum):
    """What happened to a message."""

    PUBLISHED = "published"
    LEASED = "leased"
    EXTENDED = "extended"
    ACKED = "acked"
    NACKED = "nacked"
    EXPIRED = "expired"
    """Its lease ended by itself."""
    FORWARDED = "forwarded"
    """By the subscription's own dead-letter policy."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened, and took effect, to one message."""

    deed: Deed
    where: str
    """The topic it was published to, or the subscription."""
    message: Message
    at: float
    """`time.monotonic()`, by which processes of one machine can be compared."""
    ack_id: str = ""


Note = Callable[[Deed, str, Message, str], None]
"""Told of every deed: what, where, the message, the lease's ack id."""


class Journal:
    """Everything that ever happened, oldest first. Written on the server's thread, read on any."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._lock = threading.Lock()

    def note(self, deed: Deed, where: str, message: Message, ack_id: str) -> None:
        """Add a line."""
        with self._lock:
            self._lines.append(Line(deed, where, message, time.monotonic(), ack_id))

    def lines(self, *deeds: Deed, where: str | None = None) -> list[Line]:
        """Return the lines of these deeds, or of all, at one place or everywhere."""
        with self._lock:
            lines = list(self._lines)
        return [line for line in lines if (not deeds or line.deed in deeds) and where in (None, line.where)]

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines())


def no_note(deed: Deed, where: str, message: Message, ack_id: str) -> None:
    """Keep no account."""
