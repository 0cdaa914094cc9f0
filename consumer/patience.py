"""Waiting for peers: what is tried again in place, what is waited through, what is told at once.

A *destination* (the results topic, the bucket, one callback host) that nobody reaches any more is an outage:
its callers wait without using up attempts, and the worker stops pulling until one of them gets through. One
message that keeps failing while others succeed is no outage: it is tried for a while and then fails.

A peer of Google's that fails after the client's own tries is away for everybody. A backend's host may mind a
single message, so its circuit opens only after several failures over several messages with no success
between. While it is open, answers that would else fail a message are waited through too. Those who wait are
the probes: the first success closes it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeVar

import stamina
import structlog

from consumer.broker import BrokerMisconfigured, BrokerUnavailable
from consumer.errors import CallbackFailed, HoldExpired
from consumer.ops.tracing import code_of, happened
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


CIRCUIT_FAILURES, CIRCUIT_MESSAGES = 5, 3
"""A host's circuit opens after so many failures over at least so many messages, with no success between."""


_KNOWN_DESTINATIONS = 1000


@dataclass
class _Destination:
    is_everybodys: bool = True
    """Whether every message needs it: then nothing is pulled while it is away."""
    is_ours: bool = False
    """Whether an operator set it up, rather than a message naming it."""
    reason: str = ""
    """Why it is being waited for; empty while nobody waits."""
    is_configuration: bool = False
    last_success: float = float("-inf")
    failures: int = 0
    about: set[str] = field(default_factory=set)
    """The messages that failed since the last success."""
    holding: int = 0
    """How many callers wait for it to come back."""
    is_open: bool = False
    """Whether nobody reaches it: its circuit."""

    def failed(self, error: Exception, about: str) -> None:
        self.failures += 1
        self.about.add(about)
        # A model is no peer: it is missed by those messages only that need it.
        minds_messages = isinstance(error, CallbackFailed | ModelUnavailable)
        if not minds_messages or (self.failures >= CIRCUIT_FAILURES and len(self.about) >= CIRCUIT_MESSAGES):
            self.is_open = True

    def succeeded(self, now: float) -> None:
        self.last_success, self.failures, self.reason, self.is_open = now, 0, "", False
        self.about.clear()


@dataclass
class Patience:
    """How long peers are waited for; shared by all jobs of a worker."""

    hold_timeout: float
    retry_timeout: float = 90.0
    not_found_timeout: float = 120.0
    wait_initial: float = 0.5
    wait_max: float = 15.0
    share: int = 1000
    """How many callers may wait for hosts that only some messages need."""
    clock: Callable[[], float] = time.monotonic
    _destinations: dict[str, _Destination] = field(default_factory=dict)

    @property
    def outages(self) -> dict[str, str]:
        """What everybody needs and nobody reaches, with the reason: while there is any, nothing is pulled."""
        return {
            name: held.reason
            for name, held in self._destinations.items()
            if held.is_everybodys and held.holding and held.is_open
        }

    @property
    def waiting(self) -> dict[str, str]:
        """Whoever is waited for, by everybody or by a single message, with the reason."""
        return {name: held.reason for name, held in self._destinations.items() if held.holding}

    @property
    def open_circuits(self) -> int:
        """How many destinations nobody reaches."""
        return sum(held.is_open for held in self._destinations.values())

    @property
    def misconfigured(self) -> dict[str, str]:
        """What an operator has to put right, with the reason."""
        return {
            name: held.reason
            for name, held in self._destinations.items()
            if held.holding and held.is_configuration
        }

    @property
    def unready(self) -> dict[str, str]:
        """The part of it that is our own: a host that one message names must not stop a rollout."""
        held = self._destinations
        return {
            name: why
            for name, why in self.misconfigured.items()
            if held[name].is_everybodys or held[name].is_ours
        }

    def is_taken(self, destination: str) -> bool:
        """Tell whether it is away and no more callers may wait: then nothing is run for it."""
        held = self._destinations.get(destination)
        return held is not None and not held.is_everybodys and held.holding > 0 and self._is_share_taken()

    def _is_share_taken(self) -> bool:
        # Together: a wildcard's many hosts must not fill by twos and threes what one of them may not.
        others = (held.holding for held in self._destinations.values() if not held.is_everybodys)
        return sum(others) >= self.share

    async def persist(
        self,
        destination: str,
        call: Callable[[], Awaitable[T]],
        *,
        about: str = "",
        everybody: bool = True,
        ours: bool = False,
    ) -> T:
        """Call until it succeeds or waiting is no use.

        Args:
            destination: who is called, by a name that others who call the same use too.
            call: one try.
            about: the piece of work, where the peer may mind this one and no other.
            everybody: whether all messages need the destination.
            ours: whether, if only some do, it is still the operator's rather than named by a message.

        Raises:
            HoldExpired: the destination was away for longer than `hold_timeout`, or too many wait for it.
            Exception: what `call` raised last, when it is not worth waiting for.
        """
        held = self._destinations.setdefault(destination, _Destination(everybody, ours))
        started = self.clock()
        since: float | None = None
        """Since when it is about this message: an outage waited through before does not count."""
        waits = iter(_backoff(self.wait_initial, self.wait_max))
        waiting = _Waiting(held)

        def decide(error: Exception) -> bool | float:
            nonlocal since
            asked = getattr(error, "retry_after", None) or 0.0
            verdict = verdict_of(error)
            if verdict is Verdict.TELL:
                return False
            happened("failed_try", peer=destination, code=code_of(error))
            if not _is_not_found(error):
                held.failed(error, about)
            is_away = verdict is Verdict.HOLD or (held.is_open and not _is_not_found(error))
            if is_away and held.last_success < started:
                if self.clock() - started > self.hold_timeout:
                    raise HoldExpired(
                        f"{destination} was away for {self.hold_timeout:g} s: {error}"
                    ) from error
                if not waiting.entered and not held.is_everybodys and self._is_share_taken():
                    raise HoldExpired(f"{destination}: too many messages wait already: {error}") from error
                if not held.reason:
                    log.warning("waiting_for_peer", destination=destination, error=str(error))
                waiting.enter(error)
                return max(next(waits), asked)
            # Others get through, or the peer answers: it is about this message.
            waiting.leave()
            since = self.clock() if since is None else since
            if self.clock() - since >= (
                self.not_found_timeout if _is_not_found(error) else self.retry_timeout
            ):
                return False
            return max(next(waits), asked)

        try:
            result = await _tried(call, decide)
        finally:
            waiting.leave()
        held.succeeded(self.clock())
        if len(self._destinations) > _KNOWN_DESTINATIONS and not held.holding:
            self._destinations.pop(destination, None)  # names that messages choose must not pile up
        return result


async def _tried(call: Callable[[], Awaitable[T]], decide: Callable[[Exception], bool | float]) -> T:
    """Call, and as long as it fails and `decide` names a wait, call again."""
    try:
        return await call()
    except Exception as error:  # noqa: BLE001 (raised again, where it is decided about)
        failed: Exception | None = error
    # Nearly every call succeeds, and what retries costs more than many a call.
    async for attempt in stamina.retry_context(on=decide, attempts=None, timeout=None):
        with attempt:
            if failed is not None:
                first, failed = failed, None
                raise first
            return await call()
    raise AssertionError("unreachable")


@dataclass
class _Waiting:
    """One caller's place among those who wait for a destination."""

    held: _Destination
    entered: bool = False

    def enter(self, error: Exception) -> None:
        self.held.holding += not self.entered
        self.entered = True
        self.held.reason = str(error) or type(error).__name__
        self.held.is_configuration = is_configuration(error)

    def leave(self) -> None:
        self.held.holding -= self.entered
        self.entered = False
        if not self.held.holding:
            self.held.reason, self.held.is_configuration = "", False


def _is_not_found(error: Exception) -> bool:
    return isinstance(error, CallbackFailed) and error.failure_class is FailureClass.NOT_FOUND


def is_configuration(error: Exception) -> bool:
    """Tell whether an operator has to act before the error can go away."""
    failure_class = getattr(error, "failure_class", None)
    return failure_class is FailureClass.CONFIGURATION or isinstance(error, BrokerMisconfigured)


def _backoff(initial: float, longest: float) -> Iterator[float]:
    wait = initial
    while True:
        yield wait
        wait = min(wait * 2, longest)
