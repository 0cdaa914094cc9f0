"""Ctrl-C and SIGTERM while a command changes something: the first asks for a good end, the second ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Asks whatever is going on to start nothing new."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self.interrupted = False
        """Whether a person asked, rather than something that went wrong."""

    def __bool__(self) -> bool:
        return self._asked.is_set()

    def ask(self) -> None:
        """Start nothing new."""
        self._asked.set()

    def interrupt(self) -> None:
        """The same, because a person wants it."""
        self.interrupted = True
        self.ask()

    async def within(self, seconds: float) -> bool:
        """Wait so long at most; return whether it was asked for."""
        if seconds > 0 and not self:
            try:
                async with asyncio.timeout(seconds):
                    await self._asked.wait()
            except TimeoutError:
                return False
        return bool(self)


@asynccontextmanager
async def interruptible(told: Callable[[], None] = lambda: None) -> AsyncIterator[Stop]:
    """Give a `Stop` that the first signal asks; after it the signals mean again what they always mean.

    Args:
        told: called at the first signal, to say that the end may take a moment.
    """
    loop, stop = asyncio.get_running_loop(), Stop()

    def restore() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    def heard() -> None:
        restore()
        stop.interrupt()
        told()

    for number in _SIGNALS:
        loop.add_signal_handler(number, heard)
    try:
        yield stop
    finally:
        restore()
