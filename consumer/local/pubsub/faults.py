"""Faults on demand, and the record of every call: what tests use to disturb and to judge."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc

_LOG_LENGTH = 50_000  # a local worker may run for days: old calls are forgotten


@dataclass(frozen=True, slots=True)
class Rpc:
    """One call as it arrived, whether or not it was then answered."""

    method: str
    at: float
    """`time.monotonic()` of its arrival."""
    ids: int
    """How many ack ids, or messages to publish, or messages asked for, it carries."""
    ack_ids: tuple[str, ...] = ()
    seconds: int | None = None
    """The deadline a ModifyAckDeadline asks for."""
    peer: str = ""
    """The connection it came over."""


@dataclass(eq=False)
class Fault:
    """A disturbance of one method; as a context manager it is lifted at the end of the block."""

    method: str
    status: grpc.StatusCode | None = None
    """What the call is answered with; None lets it through after the delay."""
    times: int | None = None
    """How many calls are hit; None until lifted."""
    delay: float = 0.0
    """Seconds before the answer; infinity hangs the call until the fault is lifted."""
    applied: bool = False
    """The call takes effect and only its answer is lost."""
    only: Callable[[Any], bool] = field(default=lambda _: True, repr=False)
    """Which requests are hit, by their content."""
    hits: int = 0
    _lifted: threading.Event = field(default_factory=threading.Event, repr=False)
    _sleepers: set[asyncio.Event] = field(default_factory=set, repr=False)
    _loop: asyncio.AbstractEventLoop | None = field(default=None, repr=False)

    def lift(self) -> None:
        """End the disturbance, and let go of the calls it delays."""
        self._lifted.set()
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake)

    @property
    def lifted(self) -> bool:
        """Whether it is over."""
        return self._lifted.is_set()

    @property
    def holding(self) -> int:
        """How many calls it delays just now; one whose caller is gone is none, as soon as that is noticed."""
        return len(self._sleepers)

    def hit(self, request: Any) -> bool:
        """Whether this call is disturbed; if so, it is counted."""
        if self.lifted or (self.times is not None and self.hits >= self.times) or not self.only(request):
            return False
        self.hits += 1
        return True

    async def hold(self) -> None:
        """Let the delay pass, or the fault be lifted, whichever comes first."""
        if not self.delay:
            return
        self._loop = asyncio.get_running_loop()
        wake = asyncio.Event()
        self._sleepers.add(wake)
        if self.lifted:  # between the hit and here
            wake.set()
        try:
            async with asyncio.timeout(None if self.delay == float("inf") else self.delay):
                await wake.wait()
        except TimeoutError:
            pass
        finally:
            self._sleepers.discard(wake)

    def _wake(self) -> None:
        for wake in self._sleepers:
            wake.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lift()


class Faults:
    """All disturbances that are in force. Set from any thread, asked on the server's."""

    def __init__(self) -> None:
        self._faults: tuple[Fault, ...] = ()
        self.rpcs: deque[Rpc] = deque(maxlen=_LOG_LENGTH)
        self.over_delivery = 0
        """Messages that a pull returns beyond what it asked for."""

    def add(self, fault: Fault) -> Fault:
        """Put a disturbance in force."""
        self._faults = (*(f for f in self._faults if not f.lifted), fault)
        return fault

    def clear(self) -> None:
        """Lift all of them."""
        for fault in self._faults:
            fault.lift()
        self._faults = ()
        self.over_delivery = 0

    def hit(self, method: str, request: Any) -> Fault | None:
        """The disturbance that hits this call, if one does."""
        return next((f for f in self._faults if f.method in (method, "*") and f.hit(request)), None)
