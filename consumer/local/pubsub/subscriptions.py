"""One subscription: what waits, what is leased, and what happens when a lease ends without an ack."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from consumer.local.pubsub.journal import Deed, Note, no_note
from consumer.local.pubsub.messages import (
    MAX_ACK_DEADLINE,
    DeadLetterPolicy,
    Holder,
    Invalid,
    Leased,
    Message,
    StaleAckIds,
    SubscriptionConfig,
)

Forward = Callable[[SubscriptionConfig, DeadLetterPolicy, Message, int], bool]
"""Publishes a message to the dead-letter topic; False if that topic does not exist."""

Changed = Callable[["Subscription"], None]
"""Hears of every message that is taken in, leased, given back or settled."""


@dataclass(slots=True, eq=False)
class _Entry:
    """A message in this subscription: waiting, leased, or behind another one with its ordering key."""

    message: Message
    failures: int = 0
    ack_id: str = ""
    """The id of the lease that holds it now; empty while it waits."""
    deadline: float = 0.0
    holder: Holder | None = None


class Subscription:
    """The state machine of one subscription.

    Time is an argument of every call, so a test can be at any moment it likes.
    """

    def __init__(
        self, config: SubscriptionConfig, forward: Forward, changed: Changed, note: Note = no_note
    ) -> None:
        self.config = config
        self._note = note
        self._forward = forward
        self._changed = changed
        self._waiting: list[tuple[float, int, _Entry]] = []
        self._leased: dict[str, _Entry] = {}
        # Ends of leases, soonest first. An extension adds an item: what `_Entry.deadline` says counts.
        self._deadlines: list[tuple[float, str]] = []
        # With ordering on: the messages of each key, the first of which alone is waiting or leased.
        self._keys: dict[str, deque[_Entry]] = {}
        self._order = itertools.count()
        self._leases = itertools.count(1)

    @property
    def backlog(self) -> int:
        """Messages not yet acked: waiting, leased, or behind another of their ordering key."""
        behind = sum(len(entries) - 1 for entries in self._keys.values())
        return len(self._waiting) + len(self._leased) + behind

    @property
    def leased(self) -> int:
        """Messages somebody holds."""
        return len(self._leased)

    def add(self, message: Message, now: float) -> None:
        """Take a message that was published to the topic."""
        entry = _Entry(message)
        key = message.ordering_key
        if self.config.ordered and key:
            entries = self._keys.setdefault(key, deque())
            entries.append(entry)
            if len(entries) > 1:
                return
        self._wait(entry, now)

    def pull(
        self,
        now: float,
        max_messages: int,
        lease_seconds: float | None = None,
        holder: Holder | None = None,
        max_bytes: int | None = None,
    ) -> list[Leased]:
        """Lease what is due, oldest first."""
        self.expire(now)
        taken: list[Leased] = []
        room = max_bytes
        while self._waiting and len(taken) < max_messages and self._waiting[0][0] <= now:
            entry = self._waiting[0][2]
            if room is not None:
                # One message over the limit is let through on its own, else it would never be delivered.
                if len(entry.message.data) > room and (taken or (holder is not None and holder.messages)):
                    break
                room -= len(entry.message.data)
            heapq.heappop(self._waiting)
            taken.append(self._lease(entry, now + (lease_seconds or self.config.ack_deadline), holder))
        return taken

    def acknowledge(self, now: float, ack_ids: Collection[str]) -> None:
        """Forget the messages. A stale id does nothing, or is refused where delivery is exactly once."""
        self._check(ack_ids)
        self.expire(now)
        stale = set()
        for ack_id in ack_ids:
            entry = self._end_lease(ack_id)
            if entry is None:
                stale.add(ack_id)
            else:
                self._note(Deed.ACKED, self.config.name, entry.message, ack_id)
                self._done(entry, now)
        self._refuse(stale)

    def modify_deadline(self, now: float, ack_ids: Collection[str], seconds: float) -> None:
        """Let the leases end in `seconds` from now; 0 hands the messages back."""
        if not 0 <= seconds <= MAX_ACK_DEADLINE:
            raise Invalid("ack_deadline_seconds must be between 0 and 600")
        self._check(ack_ids)
        self.expire(now)
        stale = set()
        for ack_id in ack_ids:
            entry = self._leased.get(ack_id)
            if entry is None:
                stale.add(ack_id)
            elif seconds == 0:
                self._failed(ack_id, now, Deed.NACKED)
            else:
                self._note(Deed.EXTENDED, self.config.name, entry.message, ack_id)
                self._set_deadline(entry, now + seconds)
        self._refuse(stale)

    def expire(self, now: float) -> None:
        """End the leases whose time is over."""
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, ack_id = heapq.heappop(self._deadlines)
            if self._stands(deadline, ack_id):
                self._failed(ack_id, now, Deed.EXPIRED)

    def end_leases(self, now: float, only: Callable[[Message], bool]) -> int:
        """End leases early, unknown to their holders, and return how many: the service may do that."""
        chosen = [ack_id for ack_id, entry in self._leased.items() if only(entry.message)]
        for ack_id in chosen:
            self._failed(ack_id, now, Deed.EXPIRED)
        return len(chosen)

    def due(self, now: float) -> bool:
        """Whether a pull would get something."""
        return bool(self._waiting) and self._waiting[0][0] <= now

    def next_event(self, now: float) -> float | None:
        """When the next lease ends or the next resting message is due, if that is in the future."""
        while self._deadlines and not self._stands(*self._deadlines[0]):
            heapq.heappop(self._deadlines)
        moments = [self._deadlines[0][0]] if self._deadlines else []
        if self._waiting and self._waiting[0][0] > now:
            moments.append(self._waiting[0][0])
        return min(moments, default=None)

    def _wait(self, entry: _Entry, due: float) -> None:
        heapq.heappush(self._waiting, (due, next(self._order), entry))
        self._changed(self)

    def _set_deadline(self, entry: _Entry, deadline: float) -> None:
        entry.deadline = deadline
        if len(self._deadlines) > 2 * len(self._leased) + 1000:
            # Mostly ends of leases that were acked or extended long ago.
            self._deadlines = [(leased.deadline, ack_id) for ack_id, leased in self._leased.items()]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (deadline, entry.ack_id))
        self._changed(self)

    def _stands(self, deadline: float, ack_id: str) -> bool:
        """Whether this end of a lease was neither moved nor overtaken by an ack."""
        entry = self._leased.get(ack_id)
        return entry is not None and entry.deadline == deadline

    def _lease(self, entry: _Entry, deadline: float, holder: Holder | None) -> Leased:
        # Every delivery has an id of its own, so that an old holder cannot ack for the new one.
        entry.ack_id = f"{self.config.name}:{entry.message.id}:{next(self._leases)}"
        entry.holder = holder
        if holder is not None:
            holder.messages += 1
            holder.bytes += len(entry.message.data)
        self._leased[entry.ack_id] = entry
        self._note(Deed.LEASED, self.config.name, entry.message, entry.ack_id)
        self._set_deadline(entry, deadline)
        attempt = entry.failures + 1 if self.config.dead_letter else None
        return Leased(entry.ack_id, entry.message, attempt)

    def _end_lease(self, ack_id: str) -> _Entry | None:
        entry = self._leased.pop(ack_id, None)
        if entry is None:
            return None
        entry.ack_id = ""
        if entry.holder is not None:
            entry.holder.messages -= 1
            entry.holder.bytes -= len(entry.message.data)
            entry.holder = None
            self._changed(self)  # the holder has room again
        return entry

    def _failed(self, ack_id: str, now: float, deed: Deed) -> None:
        """A nack or an expiry: dead-letter the message, or let it rest and try again."""
        entry = self._end_lease(ack_id)
        if entry is None:
            return
        self._note(deed, self.config.name, entry.message, ack_id)
        entry.failures += 1
        policy = self.config.dead_letter
        # Where the dead-letter topic is gone the message stays: the real service redelivers it for ever.
        if (
            policy is not None
            and entry.failures >= policy.max_delivery_attempts
            and self._forward(self.config, policy, entry.message, entry.failures)
        ):
            self._note(Deed.FORWARDED, self.config.name, entry.message, ack_id)
            self._done(entry, now)
            return
        retry = self.config.retry
        self._wait(entry, now + (retry.rest(entry.failures) if retry else 0.0))

    def _done(self, entry: _Entry, now: float) -> None:
        """The message is gone; the next of its ordering key may go out."""
        key = entry.message.ordering_key
        entries = self._keys.get(key)
        if entries is None or entries[0] is not entry:
            return
        entries.popleft()
        if entries:
            self._wait(entries[0], now)
        else:
            del self._keys[key]

    def _check(self, ack_ids: Collection[str]) -> None:
        """Refuse ids that were never given out here, before anything is done for the others."""
        for ack_id in ack_ids:
            if not ack_id.startswith(f"{self.config.name}:"):
                raise Invalid(f"Invalid ack id (ack_id={ack_id})")

    def _refuse(self, stale: set[str]) -> None:
        if stale and self.config.exactly_once:
            raise StaleAckIds(frozenset(stale))
