"""What a worker handed back for a while: until it comes again it is still ours.

A message that is handed back for ten seconds is leased for ten seconds, to us: nobody else can have it. So a
slot that falls free meanwhile takes it back rather than stand empty.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

from consumer.broker import Delivery

Tenant = Hashable

_STILL_OURS = 0.5
"""Seconds that a lease must last for its message to be taken back: by then it is extended."""
_KEPT_BYTES = 64_000
"""Larger messages are not kept while they rest, and simply come again."""


@dataclass(slots=True, eq=False)
class _Rest:
    delivery: Delivery | None
    until: float
    is_confirmed: bool = False
    """Whether the broker said so: else its answer may yet shorten a lease that was extended meanwhile."""


class Resting:
    """Messages that rest, by tenant.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends: dict[Tenant, list[tuple[float, int, _Rest]]] = {}
        """Heaps."""
        self._by_id: dict[str, _Rest] = {}
        self._numbers = itertools.count()

    def tenants(self) -> Iterator[Tenant]:
        """Yield whose messages rest."""
        for tenant in list(self._ends):
            if self.of(tenant):
                yield tenant

    def of(self, tenant: Tenant) -> int:
        """Return how many messages of a tenant rest."""
        ends = self._ends.get(tenant, [])
        while ends and ends[0][0] <= self._clock():
            self._forget(heapq.heappop(ends)[2])
        if not ends:
            self._ends.pop(tenant, None)  # names that messages choose must not pile up
        return len(ends)

    def total(self) -> int:
        """Return how many messages rest."""
        return sum(self.of(tenant) for tenant in list(self._ends))

    def add(self, tenant: Tenant, delivery: Delivery, seconds: float) -> None:
        """Note that a message is being handed back for so long."""
        kept = delivery if len(delivery.data) <= _KEPT_BYTES else None
        rest = _Rest(kept, self._clock() + seconds)
        heapq.heappush(self._ends.setdefault(tenant, []), (rest.until, next(self._numbers), rest))
        if kept is not None:
            self._by_id[delivery.ack_id] = rest

    def confirm(self, ack_ids: Sequence[str]) -> None:
        """Note that the broker lets these messages rest, leased to us."""
        for ack_id in ack_ids:
            if (rest := self._by_id.get(ack_id)) is not None:
                rest.is_confirmed = True

    def take_back(self, tenant: Tenant) -> tuple[Delivery, float] | None:
        """Return a tenant's message that is leased to us for longest, and until when; None if none is."""
        if not self.of(tenant):
            return None
        ends, least = self._ends[tenant], self._clock() + _STILL_OURS
        longest = max((end for end in ends if end[2].is_confirmed and end[0] > least), default=None)
        if longest is None or (delivery := longest[2].delivery) is None:
            return None
        ends.remove(longest)
        heapq.heapify(ends)
        self._forget(longest[2])
        return delivery, longest[0]

    def _forget(self, rest: _Rest) -> None:
        if rest.delivery is not None:
            self._by_id.pop(rest.delivery.ack_id, None)
