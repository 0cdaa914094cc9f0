"""Who may run beside whom: a job that is suspected to kill the process runs alone.

When a process dies, every message it was working on looks alike. Each of them is run by itself next time: the
harmless ones succeed, and only the one to blame fails again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class RunGate:
    """Lets runs pass side by side, or one alone; who waits to be alone is not overtaken."""

    def __init__(self) -> None:
        self._running = 0
        self._alone = asyncio.Lock()
        self._changed = asyncio.Condition()

    def is_free(self, *, alone: bool) -> bool:
        """Tell whether whoever enters now does not have to wait."""
        return not self._alone.locked() and not (alone and self._running)

    @asynccontextmanager
    async def enter(self, *, alone: bool) -> AsyncIterator[None]:
        """Wait for the turn and keep it while the context lasts."""
        if alone:
            async with self._alone:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._running == 0)
                yield
            return
        async with self._alone:  # behind whoever is, or waits to be, alone
            self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            async with self._changed:
                self._changed.notify_all()
