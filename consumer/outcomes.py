"""What becomes of a message: one table from failure class to action, and the outcomes the worker applies."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from consumer.broker import BrokerError, BrokerMisconfigured, BrokerUnavailable
from consumer.errors import WorkerError
from consumer.pipeline.parse import InvalidPipeline
from consumer.pipeline.run import StepFailed
from consumer.redaction import redacted
from contracts.failure import FailureClass
from contracts.result import Failure
from pipeline_steps.errors import DeviceFailed, StepError


class Settle(Enum):
    """What the worker tells the broker."""

    ACK = auto()
    """Done, in whatever way: never deliver it again."""
    HAND_BACK = auto()
    """Deliver it again, to anybody."""
    LEAVE = auto()
    """Say nothing: the lease is lost, the message may be somebody else's by now."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the handling of one delivery ended."""

    settle: Settle
    reason: str
    """For logs and metrics: `succeeded`, `duplicate`, `given_up`, ..."""
    delay: float = 0.0
    """Seconds after which a message handed back may come again."""
    lingering: frozenset[asyncio.Future[Any]] = frozenset()
    """Threads of the run that have not returned: they still hold its slot."""
    dead_letter: str = ""
    """The code with which it was given up."""

    @property
    def failure(self) -> str:
        """The code it failed with, for now or for good; empty if it did not."""
        return self.dead_letter or ("" if self.settle is Settle.ACK else self.reason)


_REST, _LONGEST_REST = 60.0, 600.0
"""The longest is Pub/Sub's own."""


def rest(delivery_attempt: int | None) -> float:
    """Return the seconds after which a message that waits for an operator, or for a peer, comes again.

    Each time is a delivery, and a subscription's dead-letter policy counts those: were the rests all of a
    minute, an outage of less than two hours would use up the hundred of a message that could do nothing about
    it. A minute longer each time, 20 deliveries last for 2 h 25 min, and 100 for 15 h 45 min.

    Args:
        delivery_attempt: as the broker counts them; None where nothing comes of the count.
    """
    return min(_REST * (delivery_attempt or 1), _LONGEST_REST)


class Action(Enum):
    """What to do about a failure."""

    GIVE_UP = auto()
    TRY_AGAIN = auto()
    """Hand back, counting the attempt; give up when all are used."""
    WAIT = auto()
    """Hand back, counting nothing: the message is not to blame."""
    FORGET = auto()
    """Ack: there is nothing left to do."""


POLICY: Mapping[FailureClass, Action] = {
    FailureClass.PERMANENT: Action.GIVE_UP,
    FailureClass.NOT_FOUND: Action.GIVE_UP,
    FailureClass.TRANSIENT: Action.TRY_AGAIN,
    FailureClass.INTERNAL: Action.TRY_AGAIN,
    FailureClass.CONFIGURATION: Action.WAIT,
    FailureClass.SUPERSEDED: Action.FORGET,
}

WORKER_LOST, OUT_OF_MEMORY, OUT_OF_RESOURCES = "worker_lost", "out_of_memory", "out_of_resources"
SUSPICIOUS = frozenset({WORKER_LOST, OUT_OF_MEMORY, DeviceFailed.code})
"""After a run that ended like this, the next one runs alone: it may have brought others down with it."""

INTERNAL_ATTEMPTS = 2
"""An error nobody foresaw is likely to come again."""


def attempts_allowed(failure_class: FailureClass, max_attempts: int) -> int:
    """Return how many runs may fail in this way before the message is given up."""
    return min(INTERNAL_ATTEMPTS, max_attempts) if failure_class is FailureClass.INTERNAL else max_attempts


def backoff(attempt: int) -> float:
    """Return the seconds before the next try after the failed `attempt`, 1 and up: 10 s doubling to 300 s."""
    return float(min(10 * 2 ** (attempt - 1), 300))


_RUN_OUT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})
"""Disk, quota, files open in the process and on the machine."""


def _has_run_out(error: BaseException) -> bool:
    """Tell whether the machine had too little of something: the same message may do well elsewhere."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _RUN_OUT)


def _run_out_of(error: BaseException) -> str:
    return OUT_OF_MEMORY if isinstance(error, MemoryError) else OUT_OF_RESOURCES


def class_of(error: BaseException) -> FailureClass:
    """Return what kind of failure `error` is; one that nobody foresaw is internal."""
    match error:
        case StepFailed(root=root) if _has_run_out(root):
            return FailureClass.TRANSIENT
        case StepFailed() | StepError() | WorkerError():
            return error.failure_class
        case InvalidPipeline():
            return FailureClass.PERMANENT
        case BrokerUnavailable():
            return FailureClass.TRANSIENT
        case BrokerMisconfigured():
            return FailureClass.CONFIGURATION
        case BrokerError():
            return FailureClass.PERMANENT
        case _ if _has_run_out(error):
            return FailureClass.TRANSIENT
        case _:
            return FailureClass.INTERNAL


def failure_of(error: BaseException) -> Failure:
    """Return what to tell readers of `error`."""
    code: str
    path: str | None
    match error:
        case StepFailed(root=root) if _has_run_out(root):
            code, path = _run_out_of(root), error.path
        case _ if _has_run_out(error):
            code, path = _run_out_of(error), None
        case StepFailed():
            code, path = error.code, error.path
        case StepError() | WorkerError():
            code, path = error.code, None
        case InvalidPipeline():
            code, path = "invalid_pipeline", error.problems[0].path
        case BrokerError():
            code, path = "broker_error", None
        case _:
            code, path = "internal_error", None
    message = redacted(str(error)) or type(error).__name__
    return Failure(code=code, failure_class=class_of(error).value, message=message[:8000], step_path=path)
