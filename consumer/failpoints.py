"""Failpoints: named places of a message's journey at which a test makes this process fail.

`FAILPOINTS=recorded=kill` kills the process right after the result was recorded; several are separated by
commas. Refused outside local mode, and without cost while none is armed.
"""

from __future__ import annotations

import asyncio
import os
import signal
from enum import StrEnum


class Point(StrEnum):
    """The places, in the order a message passes them."""

    DELIVERED = "delivered"
    PARSED = "parsed"
    CLAIMED = "claimed"
    FETCHED = "fetched"
    RUN = "run"
    RECORDED = "recorded"
    PUBLISHED = "published"
    CALLED_BACK = "called_back"
    MARKED = "marked"
    ACKED = "acked"
    # Of a message that is given up.
    FAILURE_RECORDED = "failure_recorded"
    DEAD_LETTERED = "dead_lettered"
    FAILURE_PUBLISHED = "failure_published"
    FAILURE_CALLED_BACK = "failure_called_back"
    FAILURE_MARKED = "failure_marked"


class Act(StrEnum):
    """What happens there."""

    KILL = "kill"
    """SIGKILL to this process."""
    HANG = "hang"
    """Never go on."""
    RAISE = "raise"
    """An error nobody foresaw."""
    OOM = "oom"
    """`MemoryError`, as a step raises it."""


class Failpoint(Exception):
    """The error of `raise`."""


_armed: dict[Point, Act] = {}


def arm(text: str) -> None:
    """Arm the failpoints that `text` names, and only those.

    Raises:
        ValueError: naming what is wrong with which entry.
    """
    armed = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        point, _, act = entry.partition("=")
        try:
            armed[Point(point)] = Act(act)
        except ValueError as error:
            raise ValueError(
                f"FAILPOINTS: {entry!r}: expected POINT=ACT with a point of {', '.join(Point)} "
                f"and an act of {', '.join(Act)}"
            ) from error
    _armed.clear()
    _armed.update(armed)


async def reach(point: Point) -> None:
    """Fail here if the test asked for it."""
    match _armed.get(point):
        case None:
            return
        case Act.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        case Act.HANG:
            await asyncio.Event().wait()
        case Act.RAISE:
            raise Failpoint(f"failpoint {point}")
        case Act.OOM:
            raise MemoryError(f"failpoint {point}")
