"""The worker's life: pull what fits, handle it, settle it; and on SIGTERM drain.

Nothing is leased beyond the free slots, so no message waits here while another pod is idle. The order of
draining: stop pulling first, so that nothing new arrives; let work in flight finish, because it is paid for;
then hand back what did not, so that others get it at once rather than when its lease runs out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from consumer.broker import BrokerError, BrokerMisconfigured, Delivery, Subscriber
from consumer.broker.leases import Lease, LeaseKeeper
from consumer.outcomes import Outcome, Settle
from consumer.patience import Patience

log = structlog.get_logger()

HAND_BACK_TIMEOUT = 10.0
"""Seconds that handing back may take at the end of a drain."""
_PULL_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
_OUTAGE_LOOK = 0.2
"""Seconds between two looks at whether an outage is over."""


class Handles(Protocol):
    """What the worker asks of the handler."""

    async def handle(self, delivery: Delivery, lease: Lease) -> Outcome:
        """Handle one delivery; raise only when cancelled."""
        ...


@dataclass
class Worker:
    """Pulls from one subscription, and lets at most `slots` messages be handled at a time."""

    subscriber: Subscriber
    keeper: LeaseKeeper
    handler: Handles
    patience: Patience
    slots: int
    drain_timeout: float
    on_outcome: Callable[[Delivery, Outcome, float], None] = lambda *_: None
    """Told of every delivery's end, with the seconds it took."""
    is_pulling: bool = False
    trouble: str = ""
    """Why messages cannot be pulled, while that is so."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _lingering_since: dict[asyncio.Task[None], float] = field(default_factory=dict)

    @property
    def busy(self) -> int:
        """Slots taken."""
        return len(self._tasks)

    @property
    def is_draining(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopping.is_set()

    def lingering_for(self) -> float:
        """Return for how many seconds the oldest thread has outlived its run."""
        oldest = min(self._lingering_since.values(), default=None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    def stop(self) -> None:
        """Ask the worker to drain; `run` returns when it has."""
        self._stopping.set()
        self._changed.set()

    async def run(self) -> None:
        """Work until `stop`, then drain."""
        self.keeper.start()
        try:
            await self._pull_until_stopped()
            await self._drain()
        finally:
            self.is_pulling = False
            self.keeper.stop()

    async def _pull_until_stopped(self) -> None:
        failures = 0
        while not self.is_draining:
            self._changed.clear()
            if self.busy >= self.slots:
                await self._changed.wait()
                continue
            if self.patience.outages:
                await self._wait(_OUTAGE_LOOK)
                continue
            try:
                deliveries = await self._pull(self.slots - self.busy)
            except BrokerError as error:
                self.trouble = str(error)
                self.is_pulling = not isinstance(error, BrokerMisconfigured)
                log.warning("pull_failed", error=str(error), needs_operator=not self.is_pulling)
                await self._wait(_PULL_PAUSES[min(failures, len(_PULL_PAUSES) - 1)])
                failures += 1
                continue
            failures, self.trouble, self.is_pulling = 0, "", True
            self._start(deliveries)

    async def _pull(self, most: int) -> Sequence[Delivery]:
        """Pull, but return at once with nothing when the worker is to stop."""
        self.is_pulling = self.is_pulling or not self.trouble
        pull = asyncio.ensure_future(self.subscriber.pull(most))
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({pull, stop}, return_when=asyncio.FIRST_COMPLETED)
            if pull.done():
                return pull.result()
            return ()
        finally:
            stop.cancel()
            # A pull that was cancelled hands back by itself what it may still get.
            pull.cancel()

    def _start(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            lease = self.keeper.hold(delivery.ack_id)
            task = asyncio.create_task(self._work(delivery, lease), name=delivery.message_id)
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._lingering_since.pop(task, None)
        self._changed.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("worker_failed", exc_info=task.exception())

    async def _work(self, delivery: Delivery, lease: Lease) -> None:
        structlog.contextvars.bind_contextvars(message_id=delivery.message_id)
        started = time.monotonic()
        try:
            outcome = await self.handler.handle(delivery, lease)
        except asyncio.CancelledError:
            await self._settle(delivery, lease, Outcome(Settle.HAND_BACK, "drained"))
            raise
        await self._settle(delivery, lease, outcome)
        self.on_outcome(delivery, outcome, time.monotonic() - started)
        if outcome.lingering:
            # The slot stays taken: a thread that does not return still uses memory and cores.
            task = asyncio.current_task()
            if task is not None:
                self._lingering_since[task] = time.monotonic()
            await asyncio.wait(outcome.lingering)

    async def _settle(self, delivery: Delivery, lease: Lease, outcome: Outcome) -> None:
        """Tell the broker; an answer that never comes is counted, and the message simply comes again."""
        self.keeper.release(lease)
        try:
            match outcome.settle:
                case Settle.ACK:
                    await self.subscriber.acknowledge([delivery.ack_id])
                case Settle.HAND_BACK:
                    await self.subscriber.modify_deadline([delivery.ack_id], round(min(outcome.delay, 600)))
                case Settle.LEAVE:
                    pass
        except BrokerError as error:
            log.warning("settle_failed", settle=outcome.settle.name, reason=outcome.reason, error=str(error))

    async def _drain(self) -> None:
        self.is_pulling = False
        if not self._tasks:
            return
        log.info("draining", in_flight=len(self._tasks), timeout=self.drain_timeout)
        _, unfinished = await asyncio.wait(self._tasks, timeout=self.drain_timeout)
        for task in unfinished:
            task.cancel()
        if unfinished:
            log.warning("handing_back", messages=len(unfinished))
            await asyncio.wait(unfinished, timeout=HAND_BACK_TIMEOUT)

    async def _wait(self, seconds: float) -> None:
        """Wait, but no longer than until the worker is to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
