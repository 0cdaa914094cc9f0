"""The worker's drain: whenever its last run ends, and with a broker that answers nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Literal

import pytest

from consumer.broker import Delivery
from consumer.broker.leases import Lease, LeaseKeeper
from consumer.outcomes import Outcome, Settle
from consumer.progress import Progress, Stage
from consumer.turns import Turns
from consumer.worker import HAND_BACK_TIMEOUT, Worker

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


class SilentOnceTwoAreOut(OneMessage):
    """A subscription that gives out one more than was asked for, and whose broker then falls silent."""

    async def pull(self, max_messages: int) -> Sequence[Delivery]:
        (first,) = await super().pull(max_messages)
        return [first, Delivery("too many", "other", b"", {}, datetime.now(UTC), None)]

    async def modify_deadline(self, ack_ids: Sequence[str], seconds: int) -> None:
        await asyncio.Event().wait()


class NeverDelivered(EndsAfter):
    """A run whose delivery is under way when the worker is told to end, and does not end."""

    async def handle(self, delivery: Delivery, lease: Lease, progress: Progress) -> Outcome:
        await super().handle(delivery, lease, progress)
        await asyncio.Event().wait()
        raise AssertionError("waited for ever")


class Hurried(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        self._ahead = 0.0
        super().__init__()

    def time(self) -> float:
        return super().time() + self._ahead

    def _run_once(self) -> None:
        if self._scheduled and not self._ready:
            self._ahead += max(0.0, self._scheduled[0].when() - self.time())
        super()._run_once()  # type: ignore[misc]


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


@pytest.mark.parametrize(("mode", "most"), [("abort", 10), ("finish", 30 + HAND_BACK_TIMEOUT)])
def test_a_drain_ends_in_time_though_the_broker_answers_nothing(
    monkeypatch: pytest.MonkeyPatch, mode: Literal["abort", "finish"], most: float
) -> None:
    loop, handler = Hurried(), NeverDelivered(0)
    monkeypatch.setattr("consumer.worker.time", SimpleNamespace(monotonic=loop.time))
    worker = Worker(
        SilentOnceTwoAreOut(), LeaseKeeper(extended), handler, Turns(1), drain_timeout=30, drain_mode=mode
    )
    handler.worker = worker
    began = loop.time()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(worker.run())

        assert loop.time() - began < most + 0.5
