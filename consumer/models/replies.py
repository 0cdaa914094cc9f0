"""Who waits for a device's answers, and how they are told: those come on its thread, callers are on loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from consumer.ops.tracing import recorded


class Call:
    """The items one caller waits for."""

    def __init__(self, items: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.reply: asyncio.Future[list[Any]] = self.loop.create_future()
        self.answers: list[Any] = [None] * items
        self.missing = items
        self.failed = False
        self.asker = recorded()

    @property
    def over(self) -> bool:
        """Whether nobody needs its remaining items: one failed, or the caller gave up."""
        return self.failed or self.reply.done()


class Request(NamedTuple):
    """One item of a call."""

    call: Call
    position: int
    ready: Any
    """The item as its model's `prepare` left it."""
    since: float
    """When it was asked, in monotonic seconds."""


def answer(requests: Sequence[Request], answers: Sequence[Any]) -> None:
    """Hand out one answer for each; called on the device's thread."""
    complete = []
    for request, answer in zip(requests, answers, strict=True):
        call = request.call
        call.answers[request.position] = answer
        call.missing -= 1
        if call.missing == 0:
            complete.append(call)
    by_loop: dict[asyncio.AbstractEventLoop, list[Call]] = {}
    for call in complete:
        by_loop.setdefault(call.loop, []).append(call)
    for loop, calls in by_loop.items():
        _in(loop, _settle, calls)  # one wake-up for all of them


def _settle(calls: list[Call]) -> None:
    for call in calls:
        if not call.reply.done():
            call.reply.set_result(call.answers)


def fail(call: Call, failure: Exception) -> None:
    """Tell a call that it has failed; called on any thread."""
    call.failed = True
    if isinstance(failure, StopIteration):  # a future refuses it
        failure = RuntimeError(f"the model raised {failure!r}")

    def tell() -> None:
        if not call.reply.done():
            call.reply.set_exception(failure)

    _in(call.loop, tell)


def _in(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    if not loop.is_closed():  # a worker that was stopped in the middle leaves no one to tell
        loop.call_soon_threadsafe(function, *args)
