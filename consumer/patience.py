"""Waiting for peers: what is tried again in place, what is waited through, what is told at once.

A *destination* (the results topic, the bucket, one callback host) that nobody reaches any more is an outage:
its callers wait without using up attempts, and the worker stops pulling until one of them gets through. One
message that keeps failing while others succeed is no outage: it is tried for a while and then fails.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeVar

import stamina
import structlog

from consumer.broker import BrokerMisconfigured, BrokerUnavailable
from consumer.errors import CallbackFailed, HoldExpired
from contracts.failure import FailureClass
from pipeline_steps.errors import (
    ModelUnavailable,
    StoreMisconfigured,
    StoreUnavailable,
)

T = TypeVar("T")
log = structlog.get_logger()


class Verdict(Enum):
    """What to do about an error of a peer."""

    TELL = auto()
    """Trying again here cannot help."""
    RETRY = auto()
    """It may pass: try again for a short while."""
    HOLD = auto()
    """The peer is away, or we are set up wrongly: wait for it to come back."""


def verdict_of(error: Exception) -> Verdict:
    """Return what to do about `error`."""
    match error:
        case BrokerUnavailable() | BrokerMisconfigured() | StoreUnavailable() | StoreMisconfigured():
            return Verdict.HOLD
        case ModelUnavailable():
            return Verdict.HOLD
        case CallbackFailed(failure_class=FailureClass.CONFIGURATION) | CallbackFailed(outage=True):
            return Verdict.HOLD
        case CallbackFailed(failure_class=FailureClass.TRANSIENT | FailureClass.NOT_FOUND):
            return Verdict.RETRY
        case _:
            return Verdict.TELL


@dataclass
class _Destination:
    reason: str = ""
    """Why it is being waited for; empty while nobody waits."""
    is_configuration: bool = False
    last_success: float = float("-inf")


@dataclass
class Patience:
    """How long peers are waited for; shared by all jobs of a worker."""

    hold_timeout: float
    retry_timeout: float = 90.0
    not_found_timeout: float = 120.0
    wait_initial: float = 0.5
    wait_max: float = 15.0
    clock: Callable[[], float] = time.monotonic
    _destinations: dict[str, _Destination] = field(default_factory=dict)

    @property
    def outages(self) -> dict[str, str]:
        """The destinations that are waited for, with the reason: while there are any, nothing is pulled."""
        return {name: held.reason for name, held in self._destinations.items() if held.reason}

    @property
    def misconfigured(self) -> bool:
        """Whether one of them needs an operator: then the worker is not ready."""
        return any(held.reason and held.is_configuration for held in self._destinations.values())

    async def persist(self, destination: str, call: Callable[[], Awaitable[T]]) -> T:
        """Call until it succeeds or waiting is no use.

        Raises:
            HoldExpired: the destination was away for longer than `hold_timeout`.
            Exception: what `call` raised last, when it is not worth waiting for.
        """
        held = self._destinations.setdefault(destination, _Destination())
        started = self.clock()
        since: float | None = None
        """Since when it is about this message: an outage waited through before does not count."""
        waits = iter(_backoff(self.wait_initial, self.wait_max))

        def decide(error: Exception) -> bool | float:
            nonlocal since
            asked = getattr(error, "retry_after", None) or 0.0
            match verdict_of(error):
                case Verdict.TELL:
                    return False
                case Verdict.HOLD if held.last_success < started:
                    if self.clock() - started > self.hold_timeout:
                        raise HoldExpired(
                            f"{destination} was away for {self.hold_timeout:g} s: {error}"
                        ) from error
                    self._note(destination, held, error)
                    return max(next(waits), asked)
                case _:
                    # Others get through, or the peer answers: it is about this message.
                    since = self.clock() if since is None else since
                    if self.clock() - since >= self._limit(error):
                        return False
                    return max(next(waits), asked)

        with _waiting(held):
            async for attempt in stamina.retry_context(on=decide, attempts=None, timeout=None):
                with attempt:
                    result = await call()
        held.last_success = self.clock()
        return result

    def _limit(self, error: Exception) -> float:
        not_found = isinstance(error, CallbackFailed) and error.failure_class is FailureClass.NOT_FOUND
        return self.not_found_timeout if not_found else self.retry_timeout

    def _note(self, destination: str, held: _Destination, error: Exception) -> None:
        if not held.reason:
            log.warning("waiting_for_peer", destination=destination, error=str(error))
        held.reason = str(error) or type(error).__name__
        held.is_configuration = is_configuration(error)


def is_configuration(error: Exception) -> bool:
    """Tell whether an operator has to act before the error can go away."""
    failure_class = getattr(error, "failure_class", None)
    return failure_class is FailureClass.CONFIGURATION or isinstance(error, BrokerMisconfigured)


@contextmanager
def _waiting(held: _Destination) -> Iterator[None]:
    """Forget the outage once a call ends, however it ends: others note it again if it goes on."""
    try:
        yield
    finally:
        held.reason, held.is_configuration = "", False


def _backoff(initial: float, longest: float) -> Iterator[float]:
    wait = initial
    while True:
        yield wait
        wait = min(wait * 2, longest)
