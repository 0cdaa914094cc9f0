"""Tasks that run beside the work for as long as it lasts."""

from __future__ import annotations

import asyncio
from typing import Any


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end.

    Raises:
        Exception: what had ended it before; a task that fails while nobody waits for it would do so unseen.
    """
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()
