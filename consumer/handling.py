"""What is known of one delivery while it is handled, and the fence before its side effects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from consumer.broker import Delivery
from consumer.broker.leases import Lease
from consumer.claims import Claim, Claims
from consumer.errors import FencedOff
from consumer.jobs import Job
from consumer.patience import Patience
from consumer.progress import Progress
from consumer.running import Begun

FIRST_EXTENSION = 10.0
"""Seconds to wait for the news that a message just delivered is leased for long enough."""


@dataclass
class Handling:
    """One delivery in hand."""

    delivery: Delivery
    lease: Lease
    progress: Progress
    job: Job | None = None
    claim: Claim | None = None
    may_reply: bool = False
    """Whether tenant, ids and url have been checked."""
    was_recorded: bool = False
    begun: Begun | None = None
    """Its run, once that has begun."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Fence:
    """Asked before anything is told to the outside: is the message, and the job, still ours?"""

    claims: Claims
    patience: Patience
    bucket: str
    seconds: float
    """Of lease and claim that must be left."""

    async def check(self, handling: Handling) -> None:
        """Return if nobody else can have the message or the job.

        Raises:
            FencedOff: another worker may have it by now.
        """
        lease, claim = handling.lease, handling.claim
        if not await lease.secured(self.seconds, timeout=FIRST_EXTENSION):
            raise FencedOff(f"the lease covers {lease.remaining():.0f} s, less than {self.seconds:g} s")
        if claim is not None:
            await self.patience.persist(
                f"bucket {self.bucket}", lambda: self.claims.secure(claim, self.seconds)
            )


class Copies:
    """Lets copies of one message in this process wait for each other: each finds what the first recorded."""

    def __init__(self) -> None:
        self._in_hand: dict[str, _Turn] = {}

    @asynccontextmanager
    async def one_at_a_time(self, name: str) -> AsyncIterator[None]:
        """Wait for the turn, and keep it while the context lasts."""
        turn = self._in_hand.setdefault(name, _Turn())
        turn.copies += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.copies -= 1
            if turn.copies == 0:
                del self._in_hand[name]


@dataclass
class _Turn:
    """The copies of one message that this process holds."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    copies: int = 0
