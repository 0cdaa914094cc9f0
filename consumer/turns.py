"""Whose turn it is: one tenant's backlog does not stand before another tenant's message.

Three rules:

1. The last free slot goes to a tenant that has none. So beside one tenant's backlog a newcomer waits for
   nobody's run; where several tenants have all slots, for the first that ends.
2. A newcomer may be behind a hundred messages of a tenant that has its share. While they cannot begin, more
   is pulled than there are slots, and looked at, until there is nothing left or somebody may begin.
3. What cannot begin soon is handed back, and comes again after half the time until its turn, as far as that
   is known: its tenant's slots never stand empty for long, other workers may have it meanwhile, and the
   broker's count of deliveries grows with the logarithm of the wait, not with the wait. At most 200
   rest at a time: what lies deeper stays in the queue, for the next worker that is started. A slot that
   falls free with nothing in hand takes back what rests (`resting.py`).

A queue that moves is left in peace, unless it leaves slots idle that its tenant may not have (with
`TENANT_CONCURRENCY`): where a message begins every half second nothing is looked for behind it,
so with short runs, as with a single tenant whose messages all fit, nothing is ever handed back. What rests
here can begin nowhere else: that costs eight workers with one backlog a third of what they can do. Where no
run of a tenant has ended yet its queue is taken to move, unless photos are large or a run goes on for 2 s.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from consumer.broker import Delivery
from consumer.broker.leases import Lease
from consumer.resting import Resting, Tenant
from consumer.routes import Routes

LOOK_AFTER = 0.02
"""Seconds a message of a queue that does not move is in hand before others are looked for behind it."""
_MOVES = 0.5
"""A queue moves in which a message begins at least so often."""
_LONG = 2.0
"""It stands where none began for so many seconds, or where none has ended yet and one goes on for so long."""
_LARGE = 16_000_000
"""Bytes of photos that one tenant has in hand: a file of 48 megapixels, or a decoded photo of 12."""
_MOST_LOOKED_AT = 128
"""Messages pulled at once to be looked at; 32 at first, then four times as many."""
_MOST_RESTING = 200
_SOON = 2.0
"""What begins within so many seconds stays in hand."""
_FIRST = 5
"""A tenant's first one waits so many times longer."""
_LONGEST_REST, _REST_PER_DELIVERY = 600.0, 30.0
"""A message rests 30 s at most after its first delivery, 60 s after its second, and never over Pub/Sub's 600:
it is there for a worker that is started meanwhile, and never runs out of the deliveries a policy allows."""
_PEEKED_BYTES = 256_000
"""Larger messages are nobody's, rather than read twice."""
_TENANTS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """A slot that somebody has."""

    tenant: Tenant
    since: float


@dataclass(frozen=True, slots=True, eq=False)
class InHand:
    """A message that is leased and waits for a slot."""

    delivery: Delivery
    tenant: Tenant
    since: float
    lease: list[Lease] = field(default_factory=list)
    """Its lease, once the keeper has it."""
    leased_until: float | None = None
    """Of one that rested, which the keeper does not have: when its lease ends."""


@dataclass(frozen=True, slots=True)
class Sorted:
    """What is to be done with messages just pulled."""

    begin: Sequence[tuple[Delivery, Turn]]
    keep: Sequence[InHand]
    rest: Mapping[int, Sequence[Delivery]]
    """To hand back, by the seconds until they come again."""


class Turns:
    """The slots of one worker, and what waits for them.

    Args:
        slots: how many there are.
        limit: how many one tenant may have; by default all but the last, from three on.
        tenant_of: whose a message is.
        bytes_of: how many bytes a tenant's photos take that are in hand, or on their way.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        slots: int,
        limit: int | None = None,
        tenant_of: Callable[[Delivery], Tenant] = lambda _: None,
        bytes_of: Callable[[Tenant], int] = lambda _: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots = slots
        self._limit = limit
        # Of two slots one would be half of what the machine can do.
        self._kept_free = 1 if limit is None and slots >= 3 else 0
        self._tenant_of = tenant_of
        self._bytes_of = bytes_of
        self._clock = clock
        self._begun: dict[Tenant, list[Turn]] = {}
        self._in_hand: list[InHand] = []
        self._resting = Resting(clock)
        self._seconds: dict[Tenant, float] = {}
        """How long a tenant's runs take; the latest count most."""
        self._look = 1
        self.rested = 0
        """How many messages were handed back for a while."""

    @property
    def free(self) -> int:
        """Slots that nobody has."""
        return self.slots - sum(map(len, self._begun.values()))

    @property
    def in_hand(self) -> int:
        """Messages that wait here for a slot."""
        return len(self._in_hand)

    def wanted(self) -> int:
        """Return how many messages to pull now; 0 to wait until something changes, or a moment."""
        if self.free <= 0:
            return 0
        if not self._in_hand:
            self._look = self.free
            return self.free
        first = self._in_hand[0]
        waited = self._clock() - first.since
        if waited < LOOK_AFTER:
            return 0
        if self._moves(first.tenant) and (self.free <= 1 or waited < _MOVES):
            return 0
        self._look = min(4 * max(self._look, 8), _MOST_LOOKED_AT)
        return max(0, min(self._look, _MOST_RESTING - self._resting.total()))

    def sort(self, deliveries: Sequence[Delivery]) -> Sorted:
        """Say what becomes of messages just pulled."""
        now = self._clock()
        begin: list[tuple[Delivery, Turn]] = []
        keep: list[InHand] = []
        rest: dict[int, list[Delivery]] = {}
        for delivery in deliveries:
            tenant = self._tenant_of(delivery)
            if self._may_begin(tenant):
                begin.append((delivery, self._begin(tenant)))
                continue
            before = sum(held.tenant == tenant for held in self._in_hand)
            if self._is_soon(tenant, before):
                held = InHand(delivery, tenant, now)
                self._in_hand.append(held)
                keep.append(held)
            else:
                rest.setdefault(self._rest(tenant, delivery, before), []).append(delivery)
        return Sorted(begin, keep, rest)

    def whose_turn(self, *, take_back: bool = True) -> Iterator[tuple[InHand, Turn]]:
        """Yield what may begin: what is in hand, then what rests; the tenant with the fewest slots first.

        Args:
            take_back: whether what rests may begin too.
        """
        while ready := [held for held in self._in_hand if self._may_begin(held.tenant)]:
            following = min(ready, key=lambda held: self._has(held.tenant))
            self._in_hand.remove(following)
            yield following, self._begin(following.tenant)
        while take_back and (back := self._taken_back()) is not None:
            yield back, self._begin(back.tenant)

    def rests(self, ack_ids: Sequence[str]) -> None:
        """Hear from the broker that these messages rest as they were handed back to."""
        self._resting.confirm(ack_ids)

    def overdue(self) -> Iterator[tuple[InHand, int]]:
        """Yield what is in hand, but will not begin soon after all, with the seconds it is to rest."""
        stay: Counter[Tenant] = Counter()
        for held in list(self._in_hand):
            before = stay[held.tenant]
            # Half as long again, so that nothing goes to and fro. And an extension that is still under way
            # could overtake the hand-back.
            is_leased = bool(held.lease) and held.lease[0].confirmed
            if not is_leased or self._is_soon(held.tenant, before, 1.5 * _SOON):
                stay[held.tenant] += 1
                continue
            self._in_hand.remove(held)
            yield held, self._rest(held.tenant, held.delivery, before)

    def let_go(self) -> Sequence[InHand]:
        """Return everything in hand, and forget it: it is handed back."""
        everything, self._in_hand = self._in_hand, []
        return everything

    def end(self, turn: Turn) -> None:
        """Take back a slot."""
        mine = self._begun[turn.tenant]
        mine.remove(turn)
        if not mine:
            del self._begun[turn.tenant]  # names that messages choose must not pile up
        took = self._clock() - turn.since
        known = self._seconds.pop(turn.tenant, took)
        self._seconds[turn.tenant] = 0.7 * known + 0.3 * took
        if len(self._seconds) > _TENANTS:
            del self._seconds[next(iter(self._seconds))]  # of whom nothing has run for longest

    def _taken_back(self) -> InHand | None:
        waiting = [tenant for tenant in self._resting.tenants() if self._may_begin(tenant)]
        for tenant in sorted(waiting, key=self._has):
            if (back := self._resting.take_back(tenant)) is not None:
                return InHand(back[0], tenant, self._clock(), leased_until=back[1])
        return None

    def _has(self, tenant: Tenant) -> int:
        return len(self._begun.get(tenant, ()))

    def _may_begin(self, tenant: Tenant) -> bool:
        has = self._has(tenant)
        if self._limit is not None:
            return self.free > 0 and has < self._limit
        return self.free > (self._kept_free if has else 0)

    def _begin(self, tenant: Tenant) -> Turn:
        turn = Turn(tenant, self._clock())
        self._begun.setdefault(tenant, []).append(turn)
        return turn

    def _is_soon(self, tenant: Tenant, before: int, soon: float = _SOON) -> bool:
        """Tell whether a message with so many of its tenant in hand before it is worth keeping."""
        if before == 0:  # a slot that is given back is filled at once
            return len(self._in_hand) < 3 * self.slots and self._until_turn(tenant, 0) <= _FIRST * soon
        return len(self._in_hand) <= 2 * self.slots and self._until_turn(tenant, before) <= soon

    def _moves(self, tenant: Tenant) -> bool:
        """Tell whether a tenant's messages begin often, as far as that is known."""
        elapsed = self._elapsed(tenant)
        if tenant in self._seconds:
            return self._until_turn(tenant, 0) <= _MOVES and min(elapsed) < _LONG
        return max(elapsed) < _LONG and self._bytes_of(tenant) < _LARGE

    def _until_turn(self, tenant: Tenant, before: int) -> float:
        """Return in how many seconds a message with so many of its tenant before it will begin."""
        elapsed = self._elapsed(tenant)
        known = self._seconds.get(tenant)
        # One run that hangs says nothing about the others; until one has ended the longest says most.
        seconds = max(elapsed) if known is None else max(known, min(elapsed))
        return (before + 1) * seconds / len(elapsed)

    def _elapsed(self, tenant: Tenant) -> Sequence[float]:
        """Return for how many seconds each of a tenant's runs goes on."""
        return [self._clock() - turn.since for turn in self._begun.get(tenant, ())] or [0.0]

    def _rest(self, tenant: Tenant, delivery: Delivery, before: int) -> int:
        """Return for how many seconds to hand a message back: a power of two, so that few calls do."""
        longest = min(_LONGEST_REST, _REST_PER_DELIVERY * (delivery.delivery_attempt or 1))
        seconds = max(1.0, min(self._until_turn(tenant, before + self._resting.of(tenant)) / 2, longest))
        rounded = 1 << math.floor(math.log2(seconds))
        self._resting.add(tenant, delivery, rounded)
        self.rested += 1
        return rounded


def tenant_of(delivery: Delivery, routes: Routes) -> str | None:
    """Return whose message it is, as cheaply as can be told; None where it does not say.

    Nothing is refused here: what is wrong with a message is found when its turn has come.
    """
    bucket, name = delivery.attributes.get("bucketId"), delivery.attributes.get("objectId")
    if bucket is not None and name is not None:
        found = routes.find(bucket, name)
        return found[1] if found else None
    if len(delivery.data) > _PEEKED_BYTES:
        return None
    try:
        body = orjson.loads(delivery.data)
    except orjson.JSONDecodeError:
        return None
    tenant = body.get("tenant_id") if isinstance(body, dict) else None
    return tenant if isinstance(tenant, str) else None
