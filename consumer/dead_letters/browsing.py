"""Looking through the subscription: pull until nothing comes, and hold what came, so that it comes once."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from consumer.broker import BrokerUnavailable, Delivery, Subscriber
from consumer.dead_letters.envelope import DeadLetter, read_envelope
from consumer.dead_letters.filters import Filters
from consumer.dead_letters.holding import Holding
from consumer.interrupt import Stop

IDLE_PULLS: Final = 2
"""Pulls in a row that bring nothing new, after which the subscription is taken to be empty."""
MAX_SEEN: Final = 100_000
"""Letters that are held at a time: of those that are not meant, only the lease."""
MAX_BYTES: Final = 256 << 20
"""Bytes of selected letters that are held at a time."""
_OVERHEAD: Final = 2_000
"""Bytes that a selected letter takes beside its body."""
_PER_PULL: Final = 250
"""What arrives too late for its pull stays leased to nobody for a while: so not too much at a time."""
_PAUSE: Final = 1.0


class Ended(StrEnum):
    """Why the looking through came to its end."""

    IDLE = "idle"
    """Nothing came any more."""
    LIMIT = "limit"
    """As many were found as were wanted."""
    FULL = "full"
    """No more are held at a time: there may be others."""
    INTERRUPTED = "interrupted"


@dataclass
class Gathered:
    """What was found."""

    letters: list[DeadLetter] = field(default_factory=list)
    """Those that are meant, oldest death first."""
    seen: int = 0
    unjudged: list[DeadLetter] = field(default_factory=list)
    """Those whose original cannot be read, although it alone could say whether they are meant."""
    ended: Ended = Ended.IDLE

    @property
    def saw_all(self) -> bool:
        """Whether the subscription seemed empty at the end."""
        return self.ended is Ended.IDLE

    @property
    def left_some_out(self) -> bool:
        """Whether letters that may be meant are not among these, although no limit was asked for."""
        return self.ended is Ended.FULL or bool(self.unjudged)


@dataclass(frozen=True, slots=True)
class Browser:
    """Looks through one subscription."""

    subscriber: Subscriber
    holding: Holding
    read: Callable[[DeadLetter], Awaitable[DeadLetter]]
    """Fetches what did not fit into the letter."""
    stop: Stop
    outage: float = 15.0
    """Seconds for which a broker that is away is waited for."""
    skew: timedelta = timedelta(seconds=30)
    """By how much this clock may be behind the broker's: a letter that is younger arrived meanwhile."""
    max_seen: int = MAX_SEEN
    max_bytes: int = MAX_BYTES

    async def gather(
        self, filters: Filters, limit: int | None = None, on_seen: Callable[[int], None] = lambda _: None
    ) -> Gathered:
        """Pull until nothing comes, or enough was found, and hold everything.

        Letters that arrive meanwhile are taken, but do not keep it going for long: it ends also where new
        ones arrive all the time.

        Raises:
            BrokerUnavailable: the broker stayed away.
            BrokerMisconfigured: no such subscription, or no permission.
        """
        started = datetime.now(UTC) + self.skew
        found = Gathered()
        seen: set[str] = set()
        idle = size = 0
        while idle < IDLE_PULLS and not self.stop:
            if limit is not None and len(found.letters) >= limit:
                found.ended = Ended.LIMIT
                break
            if len(seen) >= self.max_seen or size >= self.max_bytes:
                found.ended = Ended.FULL
                break
            deliveries = await self._pull(min(_PER_PULL, self.max_seen - len(seen)))
            await self.holding.hold(deliveries)
            new = [delivery for delivery in deliveries if delivery.message_id not in seen]
            seen.update(delivery.message_id for delivery in new)
            idle = 0 if any(delivery.publish_time <= started for delivery in new) else idle + 1
            for delivery in new:
                size += await self._judge(delivery, filters, limit, found)
            found.seen = len(seen)
            on_seen(found.seen)
        if self.stop:
            found.ended = Ended.INTERRUPTED
        found.letters.sort(key=lambda letter: (letter.failed_at, letter.id))
        return found

    async def _judge(self, delivery: Delivery, filters: Filters, limit: int | None, found: Gathered) -> int:
        """Take the letter if it is meant, and return its bytes then."""
        letter = await self.read(read_envelope(delivery))
        if filters.match(letter):
            if limit is None or len(found.letters) < limit:
                found.letters.append(letter)
                size = len(letter.original.data) if letter.original else len(delivery.data)
                return size + _OVERHEAD
        elif filters.may_match_unread(letter):
            found.unjudged.append(letter)
        return 0

    async def _pull(self, most: int) -> Sequence[Delivery]:
        end = time.monotonic() + self.outage
        while True:
            try:
                return await self.subscriber.pull(most)
            except BrokerUnavailable:
                if time.monotonic() > end or await self.stop.within(_PAUSE):
                    if self.stop:
                        return ()
                    raise
