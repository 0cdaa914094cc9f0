"""Questions that several checks have, each asked once; and calls that block, kept from blocking the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Once:
    """Answers by key; who asks second waits for the answer to the first."""

    def __init__(self) -> None:
        self._answers: dict[Hashable, asyncio.Future[Any]] = {}

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to `key`, or raise what asking for it raised."""
        answer = self._answers.get(key)
        if answer is None:
            answer = self._answers[key] = asyncio.ensure_future(ask())
            answer.add_done_callback(_heard)
        result: T = await asyncio.shield(answer)  # one asker's limit is not the others'
        return result

    def forget(self) -> None:
        """Cancel what is still being asked."""
        for answer in self._answers.values():
            answer.cancel()


async def aside(call: Callable[[], T]) -> T:
    """Run what blocks on a daemon thread of its own: one that hangs does not keep the command from ending."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 (handed to whoever waits)
            future.set_exception(error)

    threading.Thread(target=run, name="doctor", daemon=True).start()
    return await asyncio.wrap_future(future)


def _heard(answer: asyncio.Future[Any]) -> None:
    """Take note of a failure that nobody may be left to hear of, else asyncio would complain."""
    if not answer.cancelled():
        answer.exception()
