"""A store's own threads: its blocking calls cannot take those of the steps, nor wait for them."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class CallThreads:
    """Runs blocking calls in at most `count` threads; one that is cancelled ends there unheard."""

    def __init__(self, count: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, call: Callable[..., T], /, *args: object) -> T:
        """Return what `call` returns, with this task's context variables."""
        bound = functools.partial(contextvars.copy_context().run, call, *args)
        return await asyncio.get_running_loop().run_in_executor(self._executor, bound)

    async def close(self) -> None:
        """End the threads, after the calls under way."""
        await asyncio.to_thread(self._executor.shutdown)
