"""Sending acks together without making any of them wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

from consumer.broker import BrokerError, BrokerUnavailable, LeaseLost
from consumer.broker.rpc import MAX_IDS_PER_RPC

# More than one, so that a call that hangs does not hold up the acks that come after it.
_CALLS_AT_ONCE = 4

Send = Callable[[Sequence[str]], Awaitable[frozenset[str]]]
"""Acks these ids and returns those that were refused."""


class Acks:
    """Work-conserving batches: an ack goes out at once, unless enough calls are under way already.

    Then it leaves with all others that wait, as soon as a call is back.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: dict[str, asyncio.Future[bool]] = {}
        self._calls: set[asyncio.Task[None]] = set()
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
        accepted = {i: self._waiting.setdefault(i, loop.create_future()) for i in ack_ids}
        # Not at once: jobs that end in the same turn of the loop share a call.
        loop.call_soon(self._dispatch)
        # All are waited for before the first error is raised, so that none is left unheard.
        await asyncio.wait(accepted.values())
        lost = [ack_id for ack_id, future in accepted.items() if not future.result()]
        if lost:
            raise LeaseLost(lost)

    async def close(self) -> None:
        """End the calls that are under way."""
        self._closed = True
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        for future in self._waiting.values():
            _fail(future, BrokerUnavailable("the subscriber was closed before the ack was sent"))

    def _dispatch(self) -> None:
        while self._waiting and len(self._calls) < _CALLS_AT_ONCE:
            batch = dict(islice(self._waiting.items(), MAX_IDS_PER_RPC))
            for ack_id in batch:
                del self._waiting[ack_id]
            call = asyncio.get_running_loop().create_task(self._carry(batch))
            self._calls.add(call)
            call.add_done_callback(self._back)

    def _back(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not self._closed:
            self._dispatch()

    async def _carry(self, batch: dict[str, asyncio.Future[bool]]) -> None:
        try:
            lost = await self._send(list(batch))
        except BrokerError as error:
            for future in batch.values():
                _fail(future, error)
        except asyncio.CancelledError:
            for future in batch.values():
                _fail(future, BrokerUnavailable("the subscriber was closed before the ack was confirmed"))
            raise
        else:
            for ack_id, future in batch.items():
                if not future.done():
                    future.set_result(ack_id not in lost)


def _fail(future: asyncio.Future[bool], error: BrokerError) -> None:
    if not future.done():
        future.set_exception(error)
        # Whoever asked may have been cancelled meanwhile; then nobody fetches the exception.
        future.exception()
