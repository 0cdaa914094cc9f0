"""What waits for a device, and in which order it is taken."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from types import MappingProxyType
from typing import Any, NamedTuple

from consumer.models.replies import Request
from consumer.models.runner import AnyRunner

Shares = Mapping[str, float]
"""Of the device's time, by tenant; who is not named has 1."""
EVEN: Shares = MappingProxyType({})

_TENANTS = 1000
"""From so many on, those who wait for nothing are forgotten."""
_KEYS = 1000
"""From so many on, what their items take is forgotten."""


class Key(NamedTuple):
    """What items that share a batch have in common."""

    model: str
    bucket: Hashable


class Owner(NamedTuple):
    """For whom an item is asked."""

    tenant: Hashable
    job: Hashable


@dataclass(slots=True)
class Bucket:
    """The items of one key that wait: by tenant, then by job; whose turn is next comes first."""

    runner: AnyRunner
    tenants: dict[Hashable, OrderedDict[Hashable, deque[Request]]] = field(default_factory=dict)

    def add(self, owner: Owner, request: Request) -> None:
        """Put an item behind the others of its job."""
        jobs = self.tenants.setdefault(owner.tenant, OrderedDict())
        jobs.setdefault(owner.job, deque()).append(request)

    def pop(self, tenant: Hashable) -> Request:
        """Remove and return the next item of a tenant: one of each of its jobs in turn."""
        jobs = self.tenants[tenant]
        job, waiting = jobs.popitem(last=False)
        request = waiting.popleft()
        if waiting:
            jobs[job] = waiting  # behind the others
        elif not jobs:
            del self.tenants[tenant]
        return request


class Waiting:
    """Everything that waits for one device. Whoever uses it from several threads locks it.

    Time on the device is shared by tenants, and a tenant's share by its jobs. Of the tenants that wait, the
    one that had the least of it, for its share, is served next, from whichever of its buckets went unserved
    the longest; what else waits there fills the batch, each item going to whoever had least by then. A tenant
    that comes back starts level with those who waited: what it did not use it does not get later.

    Args:
        shares: whose time counts for less, or for more.
    """

    def __init__(self, shares: Shares = EVEN) -> None:
        self._shares: Mapping[Any, float] = shares
        self._buckets: OrderedDict[Key, Bucket] = OrderedDict()
        self._count: Counter[Hashable] = Counter()
        self._had: dict[Hashable, float] = {}
        """Seconds on the device of each tenant that waits, over its share, above a level that all have."""
        self._level = 0.0
        self._each: dict[Key, float] = {}
        """Seconds that each item of a key's last batch took."""

    def __len__(self) -> int:
        return self._count.total()

    def add(self, key: Key, runner: AnyRunner, owner: Owner, request: Request) -> None:
        """Put an item behind the others."""
        self._buckets.setdefault(key, Bucket(runner)).add(owner, request)
        if not self._count[owner.tenant]:
            self._had[owner.tenant] = max(self._had.get(owner.tenant, 0.0), self._level)
        self._count[owner.tenant] += 1

    def next_key(self) -> tuple[Key, AnyRunner] | None:
        """Return what is served next; None if nothing waits."""
        if not self._count:
            return None
        tenant = min(self._count, key=self._had.__getitem__)
        self._level = self._had[tenant]
        for key, bucket in self._buckets.items():
            if tenant in bucket.tenants:
                return key, bucket.runner
        raise AssertionError(f"tenant {tenant!r} waits nowhere")

    def take(self, key: Key, most: int) -> list[tuple[Hashable, Request]]:
        """Remove and return up to `most` items of a bucket that are still waited for, with their tenants.

        Each goes to whoever had least by then, if an item takes as long as in the last such batch.
        """
        bucket = self._buckets.pop(key)
        taken: list[tuple[Hashable, Request]] = []
        turns = [(self._had[tenant], 0, number, tenant) for number, tenant in enumerate(bucket.tenants)]
        heapify(turns)
        each = self._each.get(key, 0.0)
        while turns and len(taken) < most:
            had, given, number, tenant = turns[0]
            request = bucket.pop(tenant)
            self._forget(tenant)
            if tenant in bucket.tenants:
                heapreplace(turns, (had + each / self._share(tenant), given + 1, number, tenant))
            else:
                heappop(turns)
            if not request.call.over:
                taken.append((tenant, request))
        if bucket.tenants:
            self._buckets[key] = bucket  # behind the others
        return taken

    def charge(self, key: Key, tenants: Iterable[Hashable], seconds: float) -> None:
        """Note that a batch of these tenants' items, one entry for each, took so long."""
        items = Counter(tenants)
        if len(self._each) > _KEYS:  # shapes that photos choose
            self._each.clear()
        self._each[key] = seconds / max(1, items.total())
        for tenant, count in items.items():
            took = seconds * count / items.total() / self._share(tenant)
            self._had[tenant] = self._had.get(tenant, self._level) + took
        if len(self._had) > _TENANTS:  # names that messages choose must not pile up
            self._had = {t: had for t, had in self._had.items() if t in self._count or had > self._level}

    def clear(self) -> list[Request]:
        """Remove and return everything."""
        left = [
            request
            for bucket in self._buckets.values()
            for jobs in bucket.tenants.values()
            for waiting in jobs.values()
            for request in waiting
        ]
        self._buckets.clear()
        self._count.clear()
        return left

    def _share(self, tenant: Hashable) -> float:
        return self._shares.get(tenant, 1.0)

    def _forget(self, tenant: Hashable) -> None:
        self._count[tenant] -= 1
        if not self._count[tenant]:
            del self._count[tenant]
