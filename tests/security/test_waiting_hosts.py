"""Hosts that messages choose and nobody answers at: how much of a worker may wait for them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from consumer.errors import CallbackFailed, HoldExpired
from consumer.patience import Patience
from contracts.failure import FailureClass


def test_hosts_that_messages_choose_have_one_share_together() -> None:
    patience = Patience(hold_timeout=60, wait_initial=30, share=2)

    async def silence() -> None:
        raise CallbackFailed("nobody answers", FailureClass.TRANSIENT, outage=True)

    async def call(host: int) -> None:
        await patience.persist(f"callback {host}.example", silence, about=f"{host}", everybody=False)

    async def story() -> None:
        waiting = [asyncio.create_task(call(host)) for host in range(2)]
        async with asyncio.timeout(10):
            while len(patience.waiting) < 2:  # noqa: ASYNC110 (the next turn of the loop notes it)
                await asyncio.sleep(0)
        with pytest.raises(HoldExpired):
            await call(3)
        for task in waiting:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(story())
