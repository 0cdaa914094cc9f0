"""Doing many small things at a pace, a bounded number at a time, and coming to a good end when asked to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Final, TypeVar

from consumer.interrupt import Stop

T = TypeVar("T")

AT_ONCE: Final = 64
"""Publishes under way: a round trip of 20 ms then allows 3 000 a second."""
_CATCH_UP: Final = 0.05
"""Seconds of a delay that may be made up for: enough for an inexact timer, too little for a burst."""


class Pace:
    """So many a second, evenly: after a slow moment there is no burst.

    Args:
        per_second: how many; None for as many as there can be.
        clock: for tests.
    """

    def __init__(self, per_second: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 1.0 / per_second if per_second else 0.0
        self._clock = clock
        self._next = clock()

    def pause(self) -> float:
        """Take the next turn, and return in how many seconds it is."""
        now = self._clock()
        turn = max(self._next, now - min(_CATCH_UP, self._interval))
        self._next = turn + self._interval
        return max(0.0, turn - now)


async def start_each(
    items: AsyncIterable[T],
    act: Callable[[T], Awaitable[None]],
    *,
    stop: Stop,
    pace: Pace,
    at_once: int = AT_ONCE,
) -> None:
    """Do something with every item, until there is none or it is asked to stop; what was begun is finished.

    Args:
        items: asked for the next one only when there is room for it; what they raise is raised here, after
            what was begun is finished.
        act: sees to its own errors; what it raises ends it in the same way.
        stop: after it is asked nothing is begun.
        pace: when the next is begun.
        at_once: how many are under way.
    """
    room = asyncio.Semaphore(at_once)
    under_way: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []

    async def do(item: T) -> None:
        await act(item)

    def over(task: asyncio.Task[None]) -> None:
        under_way.discard(task)
        room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            failures.append(error)
            stop.ask()

    async def begin_each() -> None:
        async for item in items:
            await room.acquire()
            if stop or await stop.within(pace.pause()):
                break
            task = asyncio.create_task(do(item))
            under_way.add(task)
            task.add_done_callback(over)

    try:
        try:
            await begin_each()
        except Exception as error:  # noqa: BLE001 (raised again below, when what was begun is finished)
            failures.append(error)
        while under_way:
            await asyncio.wait(under_way)
    except asyncio.CancelledError:
        for task in under_way:
            task.cancel()
        raise
    if failures:
        raise failures[0]
