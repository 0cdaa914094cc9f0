"""The worker's life: pull what fits, handle it, settle it; and on SIGTERM drain.

Nothing is leased beyond the free slots, so no message waits here while another pod is idle; only where one
tenant's backlog would keep others waiting is more looked at, and most of it handed back (`turns.py`).

The order of draining, and why:

1. stop pulling, so that nothing new arrives;
2. hand back what has not begun, and every run that cannot be over in time: others can start it at once;
3. let the rest finish, because it is paid for; what is recorded already goes first by itself, it is short;
4. hand back what did not make it after all, rather than let its lease run out;
5. only then stop keeping leases, and close connections: acks, publishes and claims need both.

In the mode `abort`, for nodes that are taken away within seconds, no run is waited for in step 3, and what is
being delivered has five seconds. Whatever is handed back uses up no attempt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol

import structlog

from consumer.broker import BrokerError, BrokerMisconfigured, Delivery, Subscriber
from consumer.broker.leases import Lease, LeaseKeeper
from consumer.failpoints import Point, reach
from consumer.ops.tracing import Tracer, fail, note, span
from consumer.outcomes import Outcome, Settle
from consumer.progress import Progress, Stage
from consumer.turns import LOOK_AFTER, Turn, Turns

log = structlog.get_logger()

HAND_BACK_TIMEOUT = 10.0
"""Seconds that handing back may take at the end of a drain."""
ABORT_DELIVERY, ABORT_HAND_BACK = 5.0, 4.0
"""The same when everything must be over within ten seconds, and how long what is being delivered has."""
_PULL_PAUSES = (0.5, 1.0, 2.0, 5.0)
_PAUSE_LOOK = 0.2
"""Seconds between two looks at whether pulling may go on."""


class Handles(Protocol):
    """What the worker asks of the handler."""

    async def handle(self, delivery: Delivery, lease: Lease, progress: Progress) -> Outcome:
        """Handle one delivery; raise only when cancelled."""
        ...


@dataclass
class Worker:
    """Pulls from one subscription, and lets at most as many messages be handled as there are slots."""

    subscriber: Subscriber
    keeper: LeaseKeeper
    handler: Handles
    turns: Turns
    drain_timeout: float
    drain_mode: Literal["finish", "abort"] = "finish"
    pauses: Callable[[], str] = lambda: ""
    """Why nothing should be pulled just now: an outage, or the brake. Empty while all is well."""
    on_outcome: Callable[[Delivery, Outcome, float], None] = lambda *_: None
    """Told of every delivery's end, with the seconds it took."""
    tracer: Tracer = field(default_factory=Tracer)
    is_pulling: bool = False
    trouble: str = ""
    """Why messages cannot be pulled, while that is so."""
    broken: str = ""
    """Why it ended by itself."""
    _tasks: dict[asyncio.Task[None], Progress] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _refusing: set[asyncio.Task[None]] = field(default_factory=set)
    _lingering_since: dict[asyncio.Task[None], float] = field(default_factory=dict)

    @property
    def busy(self) -> int:
        """Slots taken."""
        return len(self._tasks)

    @property
    def is_draining(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopping.is_set()

    @property
    def runs_to_protect(self) -> int:
        """Runs whose work would be lost if a drain began now; none once it has begun."""
        if self.is_draining:
            return 0
        end, is_abort = time.monotonic() + self.drain_timeout, self.drain_mode == "abort"
        running = (it for it in self._tasks.values() if it.stage is Stage.RUNNING)
        return sum(progress.is_hopeless(end, is_abort=is_abort) for progress in running)

    def lingering_for(self) -> float:
        """Return for how many seconds the oldest thread has outlived its run."""
        oldest = min(self._lingering_since.values(), default=None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    def fail(self, why: str) -> None:
        """Hand everything back and end: this process can compute nothing any more."""
        log.critical("worker_broken", error=why)
        self.broken, self.drain_mode = why, "abort"
        self.stop()

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
            self._hand_back_overdue()
            most = self.turns.wanted()
            if not most:
                await _first(self._changed, LOOK_AFTER if self.turns.in_hand else None)
                continue
            if self.pauses():
                await _first(self._stopping, _PAUSE_LOOK)
                continue
            try:
                deliveries = await self._pull(most)
            except BrokerError as error:
                self.trouble = str(error)
                self.is_pulling = not isinstance(error, BrokerMisconfigured)
                log.warning("pull_failed", error=str(error), needs_operator=not self.is_pulling)
                await _first(self._stopping, _PULL_PAUSES[min(failures, len(_PULL_PAUSES) - 1)])
                failures += 1
                continue
            failures, self.trouble, self.is_pulling = 0, "", True
            self._take(deliveries, most)

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

    def _take(self, deliveries: Sequence[Delivery], asked_for: int) -> None:
        if len(deliveries) > asked_for:
            # The broker's idea of how many were asked for is not ours.
            log.warning("too_many_delivered", asked_for=asked_for, delivered=len(deliveries))
            self._hand_back(deliveries[asked_for:], 0)
        found = self.turns.sort(deliveries[:asked_for])
        held = [delivery.ack_id for delivery, _ in found.begin] + [it.delivery.ack_id for it in found.keep]
        leases = iter(self.keeper.hold(held))
        for delivery, turn in found.begin:
            self._begin(delivery, next(leases), turn)
        for waiting in found.keep:
            waiting.lease.append(next(leases))
        for seconds, these in found.rest.items():
            self._hand_back(these, seconds)

    def _begin(self, delivery: Delivery, lease: Lease, turn: Turn) -> None:
        progress = Progress()
        task = asyncio.create_task(self._work(delivery, lease, progress), name=delivery.message_id)
        self._tasks[task] = progress
        task.add_done_callback(partial(self._ended, turn))

    def _hand_back_overdue(self) -> None:
        for held, seconds in self.turns.overdue():
            self.keeper.release(held.lease[0])
            self._hand_back([held.delivery], seconds)

    def _hand_back(self, deliveries: Sequence[Delivery], seconds: int) -> None:
        """Let these come again after so many seconds; the answer is waited for at the end only."""
        if deliveries:
            task = asyncio.create_task(self._refuse([delivery.ack_id for delivery in deliveries], seconds))
            self._refusing.add(task)
            task.add_done_callback(self._refusing.discard)

    async def _refuse(self, ack_ids: Sequence[str], seconds: int) -> None:
        try:
            await self.subscriber.modify_deadline(ack_ids, seconds)
        except BrokerError as error:
            log.warning("settle_failed", settle="HAND_BACK", reason="no_slot", error=str(error))
        else:
            self.turns.rests(ack_ids)

    def _ended(self, turn: Turn, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        self._lingering_since.pop(task, None)
        self.turns.end(turn)
        if not self.is_draining:
            # While nothing should be pulled, what rests is as good as in the queue.
            for held, following in self.turns.whose_turn(take_back=not self.pauses()):
                lease = held.lease or self.keeper.hold([held.delivery.ack_id], held.leased_until)
                self._begin(held.delivery, lease[0], following)
        self._changed.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("worker_failed", exc_info=task.exception())

    async def _work(self, delivery: Delivery, lease: Lease, progress: Progress) -> None:
        structlog.contextvars.bind_contextvars(message_id=delivery.message_id)
        started = time.monotonic()
        with self.tracer.message(delivery):
            try:
                outcome = await self.handler.handle(delivery, lease, progress)
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
        note(outcome=outcome.reason)
        if outcome.failure:
            fail(outcome.failure)
        try:
            match outcome.settle:
                case Settle.ACK:
                    with span("ack"):
                        await self.subscriber.acknowledge([delivery.ack_id])
                    await reach(Point.ACKED)
                case Settle.HAND_BACK:
                    seconds = round(min(outcome.delay, 600))
                    with span("hand back", delay_s=seconds):
                        await self.subscriber.modify_deadline([delivery.ack_id], seconds)
                case Settle.LEAVE:
                    pass
        except BrokerError as error:
            log.warning("settle_failed", settle=outcome.settle.name, reason=outcome.reason, error=str(error))

    async def _drain(self) -> None:
        self.is_pulling = False
        began = time.monotonic()
        waiting = self.turns.let_go()
        for held in waiting:
            self.keeper.release(held.lease[0])
        self._hand_back([held.delivery for held in waiting], 0)
        if self._tasks:
            await self._drain_tasks()
        if self._refusing:  # they have been on their way since the drain began
            left = began + ABORT_HAND_BACK - time.monotonic()
            await asyncio.wait(self._refusing, timeout=max(0.0, left))

    async def _drain_tasks(self) -> None:
        await asyncio.sleep(0)  # a task cancelled before its first turn would hand nothing back
        is_abort = self.drain_mode == "abort"
        timeout = min(self.drain_timeout, ABORT_DELIVERY) if is_abort else self.drain_timeout
        end = time.monotonic() + timeout
        hopeless = [task for task, it in self._tasks.items() if it.is_hopeless(end, is_abort=is_abort)]
        log.info("draining", in_flight=len(self._tasks), handed_back_at_once=len(hopeless), timeout=timeout)
        for task in hopeless:
            task.cancel()
        if not self._tasks:  # the last one ended meanwhile
            return
        _, unfinished = await asyncio.wait(self._tasks, timeout=timeout)
        for task in unfinished:
            task.cancel()
        if unfinished:
            log.warning("handing_back", messages=len(unfinished))
            await asyncio.wait(unfinished, timeout=ABORT_HAND_BACK if is_abort else HAND_BACK_TIMEOUT)


async def _first(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for the event, but no longer than so long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
