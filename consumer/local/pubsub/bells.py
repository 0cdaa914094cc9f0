"""How calls that wait for messages hear that there are some."""

from __future__ import annotations

import asyncio


class Bells:
    """One bell per subscription. Whoever waits is woken by the next ring and looks for himself."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    def ring(self, name: str) -> None:
        """Wake all who wait for this subscription."""
        for waiter in self._waiting.pop(name, ()):
            if not waiter.done():
                waiter.set_result(None)

    def waiting(self, name: str) -> int:
        """How many wait for this subscription."""
        return len(self._waiting.get(name, ()))

    async def wait(self, name: str, seconds: float | None) -> bool:
        """Wait for a ring; False if the time passed without one."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, set()).add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            return False
        finally:
            waiters = self._waiting.get(name)
            if waiters is not None:
                waiters.discard(waiter)
                if not waiters:
                    del self._waiting[name]
        return True
