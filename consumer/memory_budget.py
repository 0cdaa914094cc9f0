"""How many bytes of photos are in hand at a time: what is decoded waits until there is room for it.

A photo of 48 megapixels is 144 MB once it is decoded, a hundred times its neighbour; so what bounds memory is
bytes, not messages. The wait is the event loop's: no thread is held by it.

- The tenant that holds the least is next, and of several the one that came first. Nobody overtakes it.
- The last quarter is for tenants that hold nothing, so that a small photo does not wait for large ones.
- A photo that is larger than everything is let in when no other is there. So nothing waits for ever.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Any

_SHARE = 0.75
"""How much may be taken by tenants that hold something already."""


@dataclass(slots=True, eq=False)
class Credit:
    """What one photo may take. To be released in the end, however that comes; a second time does nothing."""

    budget: MemoryBudget
    tenant: Hashable
    size: int = 0
    """Bytes of its file, and of the decoded photo once there was room for it."""
    decoded: int = 0
    """Of these, what there had to be room for."""
    is_released: bool = False

    def arrives(self, size: int) -> None:
        """Count a file of so many bytes: it will be there, whether or not there is room for it."""
        if self.is_released:  # the news may be late
            return
        if size > self.size:
            self.budget.count(self, size - self.size)
        else:
            self.budget.give_back(self, self.size - size)

    async def grow(self, size: int) -> None:
        """Wait until there is room for so many bytes more, and take them."""
        await self.budget.take(self, size)

    def shrink(self, size: int) -> None:
        """Give back all but so many bytes; the file's go first."""
        self.budget.give_back(self, self.size - size)

    def release(self) -> None:
        """Give everything back."""
        self.is_released = True
        self.shrink(0)

    def release_after(self, threads: Collection[asyncio.Future[Any]]) -> None:
        """Give everything back when the last of these is done: they still look at the photo."""
        left = {thread for thread in threads if not thread.done()}

        def done(thread: asyncio.Future[Any]) -> None:
            if not thread.cancelled():
                thread.exception()  # nobody else asks for it any more
            left.discard(thread)
            if not left:
                self.release()

        for thread in tuple(left):
            thread.add_done_callback(done)
        if not left:
            self.release()


@dataclass(slots=True, eq=False)
class _Waiting:
    credit: Credit
    size: int
    admitted: asyncio.Future[None]


class MemoryBudget:
    """The bytes of all photos in hand. For one event loop.

    Args:
        limit: how many there may be, but for the files of those that wait, and a photo that is alone.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        """Bytes in hand: files, also those on their way, and decoded photos."""
        self._held: Counter[Hashable] = Counter()
        """The same by tenant."""
        self._decoded: Counter[Hashable] = Counter()
        """Bytes of decoded photos, by tenant."""
        self._waiting: list[_Waiting] = []
        """In the order they came."""

    @property
    def waiting(self) -> int:
        """How many photos wait for room."""
        return len(self._waiting)

    def held_by(self, tenant: Hashable) -> int:
        """Return how many bytes a tenant has in hand."""
        return self._held[tenant]

    def note(self, tenant: Hashable, size: int = 0) -> Credit:
        """Return a photo's credit; its file counts whether or not there is room for it."""
        credit = Credit(self, tenant)
        credit.arrives(size)
        return credit

    def count(self, credit: Credit, size: int) -> None:
        """Count so many bytes more."""
        credit.size += size
        self.held += size
        self._held[credit.tenant] += size

    async def take(self, credit: Credit, size: int) -> None:
        """Wait until there is room for so many bytes more, and take them."""
        mine = _Waiting(credit, size, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        self._admit()
        try:
            await mine.admitted
        finally:
            if mine in self._waiting:  # cancelled: whoever stood behind it may fit
                self._waiting.remove(mine)
                self._admit()

    def give_back(self, credit: Credit, size: int) -> None:
        """Take so many bytes back: whoever waits for room may have it."""
        if size <= 0:
            return
        self.count(credit, -size)
        decoded = credit.decoded - min(credit.decoded, credit.size)
        credit.decoded -= decoded
        self._decoded[credit.tenant] -= decoded
        self._held, self._decoded = +self._held, +self._decoded  # names that messages choose must not pile up
        self._admit()

    def _admit(self) -> None:
        """Let in whoever there is room for, in their order."""
        self._waiting = [waiting for waiting in self._waiting if not waiting.admitted.cancelled()]
        while self._waiting:
            first = min(self._waiting, key=lambda waiting: self._decoded[waiting.credit.tenant])
            credit = first.credit
            if not self._has_room(credit.tenant, first.size):
                return
            self._waiting.remove(first)
            self.count(credit, first.size)
            credit.decoded += first.size
            self._decoded[credit.tenant] += first.size
            first.admitted.set_result(None)

    def _has_room(self, tenant: Hashable, size: int) -> bool:
        if not self._decoded.total():
            return True
        most = self.limit * _SHARE if self._decoded[tenant] else self.limit
        return self.held + size <= most
