"""A worker as a task of this process, started and stopped as often as wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from consumer.app import RunningWorker
from consumer.broker import Delivery
from consumer.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class Ended:
    """How a delivery to the worker ended."""

    delivery: Delivery
    outcome: Outcome
    seconds: float


class WorkerTask:
    """Opens workers one after the other, and lets each pull until it is stopped.

    Args:
        open_one: opens a worker, its models warm.
    """

    def __init__(self, open_one: Callable[[], AbstractAsyncContextManager[RunningWorker]]) -> None:
        self._open_one = open_one
        self._opened: AsyncExitStack | None = None
        self._running: RunningWorker | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> RunningWorker | None:
        """The worker; None while there is none."""
        return self._running

    async def start(self) -> None:
        """Open a worker and let it pull."""
        async with AsyncExitStack() as opening:
            self._running = await opening.enter_async_context(self._open_one())
            self._task = asyncio.create_task(self._running.worker.run(), name="worker")
            self._opened = opening.pop_all()

    async def stop(self) -> None:
        """Drain the worker as SIGTERM does, and close it; harmless if there is none."""
        running, task, opened = self._running, self._task, self._opened
        self._running = self._task = self._opened = None
        if running is None or task is None or opened is None:
            return
        async with opened:
            running.worker.stop()
            await task

    def check(self) -> None:
        """Return if the worker works, or was stopped on purpose.

        Raises:
            Exception: what ended it.
        """
        if self._task is not None and self._task.done():
            self._task.result()

    async def until(self, event: asyncio.Event) -> None:
        """Wait for `event`.

        Raises:
            Exception: what ended the worker, should it fail before that.
        """
        waiting = asyncio.create_task(event.wait())
        try:
            tasks = {waiting, self._task} if self._task else {waiting}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        self.check()
