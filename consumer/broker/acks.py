"""Sending acks together without making any of them wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from consumer.broker import BrokerError, BrokerUnavailable, LeaseLost
from consumer.broker.rpc import MAX_IDS_PER_RPC

# More than one, so that a call that hangs does not hold up the acks that come after it.
_CALLS_AT_ONCE = 4

_Waiting = tuple[str, "asyncio.Future[bool]"]
"""An ack id, and whoever waits to hear whether it was accepted."""

Send = Callable[[Sequence[str]], Awaitable[frozenset[str]]]
"""Acks these ids and returns those that were refused."""


class Acks:
    """Work-conserving batches: an ack goes out at once, unless enough calls are under way already.

    Then it leaves with all others that wait, as soon as a call is back.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: list[_Waiting] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._called_soon = False
        """Whether `_dispatch` runs in this turn of the loop anyway."""
        self._closed = False

    async def add(self, ack_ids: Sequence[str]) -> None:
        """Ack these messages; return when the broker has confirmed it.

        Raises:
            LeaseLost: some ids were refused.
            BrokerError: the call that carried them failed.
        """
        if not ack_ids:
            return
        if self._closed:
            raise BrokerUnavailable("the subscriber is closed")
        loop = asyncio.get_running_loop()
        waiting = [(ack_id, loop.create_future()) for ack_id in ack_ids]
        self._waiting.extend(waiting)
        if not self._called_soon and len(self._calls) < _CALLS_AT_ONCE:
            # Not at once: jobs that end in the same turn of the loop share a call.
            self._called_soon = True
            loop.call_soon(self._dispatch)
        lost = [ack_id for ack_id, accepted in waiting if not await accepted]
        if lost:
            raise LeaseLost(lost)

    async def close(self) -> None:
        """End the calls that are under way."""
        self._closed = True
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        for _, future in self._waiting:
            _fail(future, BrokerUnavailable("the subscriber was closed before the ack was sent"))

    def _dispatch(self) -> None:
        self._called_soon = False
        while self._waiting and not self._closed and len(self._calls) < _CALLS_AT_ONCE:
            batch, self._waiting = self._waiting[:MAX_IDS_PER_RPC], self._waiting[MAX_IDS_PER_RPC:]
            call = asyncio.get_running_loop().create_task(self._carry(batch))
            self._calls.add(call)
            call.add_done_callback(self._back)

    def _back(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._dispatch()

    async def _carry(self, batch: Sequence[_Waiting]) -> None:
        try:
            lost = await self._send([ack_id for ack_id, _ in batch])
        except BrokerError as error:
            for _, future in batch:
                _fail(future, error)
        except asyncio.CancelledError:
            for _, future in batch:
                _fail(future, BrokerUnavailable("the subscriber was closed before the ack was confirmed"))
            raise
        else:
            for ack_id, future in batch:
                if not future.done():
                    future.set_result(ack_id not in lost)


def _fail(future: asyncio.Future[bool], error: BrokerError) -> None:
    if not future.done():
        future.set_exception(error)
        # Whoever asked may have been cancelled meanwhile; then nobody fetches the exception.
        future.exception()
