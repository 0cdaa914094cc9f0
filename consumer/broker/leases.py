"""Keeping messages leased while they are worked on, whatever else the process is doing.

One thread, which depends on nothing but the monotonic clock. It never waits for an RPC: each is sent with a
timeout of its own, and its answer is noted when it comes. So neither a blocked event loop, nor a slow
broker, nor another message can delay a renewal. The worker never relies on the subscription's own deadline:
the first extension is sent a moment after a message is held, unless it is over by then.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from consumer.broker import BrokerError, LeaseLost

MIN_ACK_DEADLINE: Final = 10.0
"""No subscription leases for less, so this long after its delivery a message is surely still ours."""

_RETRIES: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 5.0)
_LONGEST_PAUSE: Final = 1.0  # the thread turns at least this often, so that its health can be seen
# What is delivered within this time shares an RPC, and what is over by then needs none.
_GATHERING: Final = 0.005
_BACKSTOP: Final = 1.0  # an RPC that breaks its own timeout is given up after this long
_IDS_PER_RPC: Final = 1000

Extend = Callable[[Sequence[str], int, float], "Future[None]"]
"""Sends one extension of these ack ids by so many seconds, with a timeout, without waiting for the answer.

Its failures are `BrokerError`s; `LeaseLost` names the ids that cannot be extended any more.
"""


@dataclass(slots=True, eq=False)
class Lease:
    """One message's lease, as far as the keeper knows."""

    ack_id: str
    clock: Callable[[], float] = field(repr=False)
    expires: float
    """When it ends: counted from the moment the last successful extension was *sent*. Before the first one,
    from the delivery."""
    due: float
    """When the keeper sends the next extension."""
    confirmed: bool = False
    """Whether any extension has succeeded."""
    lost: bool = False
    """The broker refused to extend it."""
    lapsed: bool = False
    """There was a moment when nothing covered it: another worker may hold the message, although the broker
    went on accepting extensions, as it does for every id that was once valid."""
    failures: int = 0
    """Extensions that failed since the last success."""
    news: list[Callable[[], None]] = field(default_factory=list, repr=False)
    """Called once each, when the next answer is there."""

    def remaining(self) -> float:
        """Seconds left by the last success; 0 before the first, and once lost."""
        if self.lost or not self.confirmed:
            return 0.0
        return max(0.0, self.expires - self.clock())

    def covers(self, seconds: float) -> bool:
        """The fence: whether the message is surely ours for that long.

        Between two renewals a healthy lease covers three quarters of its length.
        """
        return not self.lapsed and self.remaining() > seconds

    async def secured(self, seconds: float, timeout: float) -> bool:
        """Like `covers`, but wait for the extension that is under way if need be.

        A job that is over at once has not heard of its first extension yet.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while not self.covers(seconds) and not self.lost and not self.lapsed:
            heard: asyncio.Future[None] = loop.create_future()
            self.news.append(partial(_wake, loop, heard))
            if self.covers(seconds) or self.lost:  # the answer came before we listened
                break
            try:
                async with asyncio.timeout_at(end):
                    await heard
            except TimeoutError:
                return False
        return self.covers(seconds)


class LeaseKeeper:
    """Extends every lease it holds, from `hold` to `release`."""

    def __init__(
        self,
        extend: Extend,
        lease_seconds: int = 120,
        rpc_timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._extend = extend
        self._lease_seconds = lease_seconds
        self._rpc_timeout = rpc_timeout
        self._clock = clock
        self._leases: set[Lease] = set()
        self._changed = threading.Condition()
        self._news = False
        self._stopping = False
        self._ticked = self._next_look = clock()
        self.lag = 0.0
        """Seconds by which the latest extension was sent later than it was due."""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Leases still held run out by themselves."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def hold(self, ack_ids: Sequence[str], until: float | None = None) -> Sequence[Lease]:
        """Keep these messages leased from now on; their first extension is sent in a moment.

        Args:
            ack_ids: of messages delivered just now.
            until: when their leases end, if they were delivered earlier.
        """
        now = self._clock()
        ends = now + MIN_ACK_DEADLINE if until is None else until
        leases = [Lease(ack_id, self._clock, ends, due=now) for ack_id in ack_ids]
        with self._changed:
            self._leases.update(leases)
            self._wake_by(now)
        return leases

    def release(self, lease: Lease) -> None:
        """Extend it no more. Before the ack or nack, so that no extension follows it."""
        with self._changed:
            self._leases.discard(lease)

    @property
    def held(self) -> int:
        """How many leases are kept."""
        return len(self._leases)

    def last_tick_age(self) -> float:
        """Seconds since the thread last looked at its leases; about one at most while all is well."""
        return self._clock() - self._ticked

    def shortest(self) -> float | None:
        """What remains of the lease that ends first; None if none is held."""
        with self._changed:
            leases = list(self._leases)
        return min((max(0.0, lease.expires - self._clock()) for lease in leases), default=None)

    def tick(self) -> float:
        """Send what is due, and say in how many seconds to look again. The thread's whole work."""
        now = self._ticked = self._clock()
        with self._changed:
            due = [lease for lease in self._leases if lease.due <= now]
            fresh = [lease for lease in due if not lease.confirmed and not lease.failures]
            alone = [lease for lease in due if lease.confirmed or lease.failures]
            self.lag = max((now - lease.due for lease in due), default=self.lag)
            for lease in due:
                lease.due = now + self._rpc_timeout + _BACKSTOP  # unless an answer says otherwise
        # What was just delivered goes out together: a busy worker would else send one RPC for every message.
        # Afterwards each lease stands alone, so that no bad id and no lost answer concerns another.
        for start in range(0, len(fresh), _IDS_PER_RPC):
            self._send(fresh[start : start + _IDS_PER_RPC])
        for lease in alone:
            self._send([lease])
        with self._changed:
            look = min((lease.due for lease in self._leases), default=math.inf)
            self._next_look = min(look, self._clock() + _LONGEST_PAUSE)
            return max(self._next_look - self._clock(), 0.0)

    def _run(self) -> None:
        while not self._stopping:
            pause = self.tick()
            with self._changed:
                if not self._news and not self._stopping:
                    self._changed.wait(pause)
            if self._news:
                time.sleep(_GATHERING)
                self._news = False

    def _wake_by(self, due: float) -> None:
        """Wake the thread if it would look too late."""
        if due < self._next_look:
            self._news = True
            self._changed.notify()

    def _send(self, leases: Sequence[Lease]) -> None:
        sent = self._clock()
        future = self._extend([lease.ack_id for lease in leases], self._lease_seconds, self._rpc_timeout)
        future.add_done_callback(partial(self._answered, leases, sent))

    def _answered(self, leases: Sequence[Lease], sent: float, future: Future[None]) -> None:
        """Note an answer. Runs on whatever thread brings it."""
        error: BaseException | None = BrokerError("cancelled") if future.cancelled() else future.exception()
        lost, undecided = frozenset[str](), frozenset(lease.ack_id for lease in leases if error)
        if isinstance(error, LeaseLost):
            lost, undecided = error.ack_ids, error.undecided
        with self._changed:
            for lease in leases:
                if lease.ack_id in lost:
                    lease.lost = True
                    self._leases.discard(lease)
                elif lease.ack_id not in undecided:
                    self._extended(lease, sent)
                else:
                    pause = _RETRIES[min(lease.failures, len(_RETRIES) - 1)]
                    lease.failures += 1
                    lease.due = min(lease.due, self._clock() + pause)
                    self._wake_by(lease.due)
        for lease in leases:
            while lease.news:
                lease.news.pop()()

    def _extended(self, lease: Lease, sent: float) -> None:
        if sent > lease.expires:
            lease.lapsed = True
        ends = sent + self._lease_seconds
        # Answers may overtake each other, but the first one replaces what was only assumed.
        lease.expires = max(lease.expires, ends) if lease.confirmed else ends
        lease.confirmed = True
        lease.failures = 0
        lease.due = sent + self._lease_seconds / 4
        self._wake_by(lease.due)


def _wake(loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None]) -> None:
    def set_result() -> None:
        if not waiter.done():
            waiter.set_result(None)

    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(set_result)
