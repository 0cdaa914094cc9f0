"""What waits for a device, and in which order it is taken."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from consumer.models.runner import AnyRunner


class Call:
    """The items one caller waits for."""

    def __init__(self, items: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.reply: asyncio.Future[list[Any]] = self.loop.create_future()
        self.answers: list[Any] = [None] * items
        self.missing = items
        self.failed = False

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


class Key(NamedTuple):
    """What items that share a batch have in common."""

    model: str
    bucket: Hashable


@dataclass(slots=True)
class Bucket:
    """The items of one key that wait, by the job they are for; the job whose turn is next comes first."""

    runner: AnyRunner
    jobs: OrderedDict[Hashable, deque[Request]] = field(default_factory=OrderedDict)

    def take(self, most: int) -> list[Request]:
        """Remove and return up to `most` requests that somebody still waits for, one of each job in turn."""
        taken: list[Request] = []
        while self.jobs and len(taken) < most:
            job, waiting = self.jobs.popitem(last=False)
            request = waiting.popleft()
            if waiting:
                self.jobs[job] = waiting  # behind the others
            if not request.call.over:
                taken.append(request)
        return taken
