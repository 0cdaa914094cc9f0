"""How late the event loop is: what blocks it blocks every message at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

_PERIOD = 0.5


@dataclass
class LoopLag:
    """Measured twice a second while `watch` runs."""

    seconds: float = 0.0
    """By how much the latest turn was late."""

    async def watch(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time() + _PERIOD
            await asyncio.sleep(_PERIOD)
            self.seconds = max(0.0, loop.time() - asked)
