"""The worker's drain, at every moment at which its last run may end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from consumer.broker import Delivery
from consumer.broker.leases import Lease, LeaseKeeper
from consumer.outcomes import Outcome, Settle
from consumer.progress import Progress, Stage
from consumer.turns import Turns
from consumer.worker import Worker

LIMIT = 10.0


@dataclass
class OneMessage:
    """A subscription with a message, and then nothing."""

    left: int = 1
    acked: list[str] = field(default_factory=list)

    async def pull(self, max_messages: int) -> Sequence[Delivery]:
        assert max_messages > 0
        if not self.left:
            await asyncio.Event().wait()
        self.left -= 1
        return [Delivery("ack", "id", b"", {}, datetime.now(UTC), None)]

    async def acknowledge(self, ack_ids: Sequence[str]) -> None:
        self.acked += ack_ids

    async def modify_deadline(self, ack_ids: Sequence[str], seconds: int) -> None:
        raise AssertionError(f"{ack_ids} handed back for {seconds} s")

    async def close(self) -> None:
        pass


@dataclass
class EndsAfter:
    """A run that is told to end with the worker, and does so some turns of the loop later."""

    turns: int
    worker: Worker | None = None

    async def handle(self, delivery: Delivery, lease: Lease, progress: Progress) -> Outcome:
        assert self.worker is not None
        progress.stage = Stage.DELIVERING  # the drain waits for it
        self.worker.stop()
        for _ in range(self.turns):
            await asyncio.sleep(0)
        return Outcome(Settle.ACK, "succeeded")


def extended(ack_ids: Sequence[str], seconds: int, timeout: float) -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done


@pytest.mark.parametrize("turns", range(12))
def test_a_drain_ends_well_whenever_the_last_run_ends(turns: int) -> None:
    subscription, handler = OneMessage(), EndsAfter(turns)
    worker = Worker(subscription, LeaseKeeper(extended), handler, Turns(1), drain_timeout=LIMIT)
    handler.worker = worker

    asyncio.run(asyncio.wait_for(worker.run(), LIMIT))

    assert subscription.acked == ["ack"]
