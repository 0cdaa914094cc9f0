"""Holding many dead letters at once: leased together, and handed back together.

The worker's lease keeper renews each of its few leases by a call of its own. Here there may be thousands, and
nothing blocks the event loop: they are renewed a thousand to a call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from consumer.broker import BrokerError, Delivery, LeaseLost, Subscriber

LEASE_SECONDS: Final = 120
"""How long letters stay leased if this process is killed."""
_SHORTEST_DEADLINE: Final = 10.0
"""No subscription leases for less, so this long after its delivery a letter is surely ours."""
_RETRY_AFTER: Final = 2.0
_IDS_PER_CALL: Final = 1000


@dataclass(slots=True)
class _Held:
    ack_id: str
    expires: float
    lapsed: bool = False
    """There was a moment when nothing covered it: somebody else may have it."""


class Holding:
    """Leases of letters, renewed while the context lasts; at its end all that are left are handed back."""

    def __init__(
        self,
        subscriber: Subscriber,
        lease_seconds: int = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._subscriber = subscriber
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._ended = asyncio.Event()
        self._renewing: asyncio.Task[None] | None = None
        self.left_leased = 0
        """Letters that could not be handed back: they come back by themselves when their lease is over."""

    def __len__(self) -> int:
        return len(self._held)

    async def __aenter__(self) -> Self:
        self._renewing = asyncio.create_task(self._renew_until_ended())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._renewing is not None:
            # Waited for, not cancelled: no extension may follow the handing back.
            await asyncio.wait([self._renewing])
        await self._hand_back()

    async def hold(self, deliveries: Sequence[Delivery]) -> None:
        """Keep these leased from now on; of a letter that came again its newest lease counts."""
        now = self._clock()
        for delivery in deliveries:
            self._held[delivery.message_id] = _Held(delivery.ack_id, now + _SHORTEST_DEADLINE)
        await self._extend([delivery.message_id for delivery in deliveries])

    def covers(self, message_id: str, seconds: float) -> bool:
        """Whether the letter is surely ours for that long."""
        held = self._held.get(message_id)
        return held is not None and not held.lapsed and held.expires - self._clock() > seconds

    async def acknowledge(self, message_id: str) -> None:
        """Say that the letter is done, and have it confirmed.

        Raises:
            LeaseLost: it is not ours any more, so it will come again.
            BrokerError: not confirmed; it may come again.
        """
        held = self._held.pop(message_id, None)
        if held is None:
            raise LeaseLost([message_id])
        await self._subscriber.acknowledge([held.ack_id])

    async def _renew_until_ended(self) -> None:
        pause = self._lease_seconds / 4
        while not self._ended.is_set():
            try:
                async with asyncio.timeout(pause):
                    await self._ended.wait()
            except TimeoutError:
                succeeded = await self._extend(list(self._held))
                pause = self._lease_seconds / 4 if succeeded else _RETRY_AFTER

    async def _extend(self, message_ids: Sequence[str]) -> bool:
        starts = range(0, len(message_ids), _IDS_PER_CALL)
        chunks = [message_ids[start : start + _IDS_PER_CALL] for start in starts]
        return all(await asyncio.gather(*map(self._extend_chunk, chunks)))

    async def _extend_chunk(self, message_ids: Sequence[str]) -> bool:
        """Extend at most a thousand leases; False if nothing can be said of them just now."""
        leases = {self._held[i].ack_id: i for i in message_ids if i in self._held}
        sent = self._clock()
        lost: frozenset[str] = frozenset()
        try:
            if leases:
                await self._subscriber.modify_deadline(list(leases), self._lease_seconds)
        except LeaseLost as error:
            lost = error.ack_ids
        except BrokerError:
            return False
        for ack_id, message_id in leases.items():
            held = self._held.get(message_id)
            if held is None or held.ack_id != ack_id:  # settled or delivered anew meanwhile
                continue
            if ack_id in lost:
                del self._held[message_id]
            else:
                held.lapsed = held.lapsed or sent > held.expires
                held.expires = sent + self._lease_seconds
        return True

    async def _hand_back(self) -> None:
        ack_ids = [held.ack_id for held in self._held.values()]
        self._held.clear()
        if not ack_ids:
            return
        try:
            await self._subscriber.modify_deadline(ack_ids, 0)
        except LeaseLost:
            return  # those are not ours to hand back
        except BrokerError:
            self.left_leased = len(ack_ids)
