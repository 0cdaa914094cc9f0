"""Micro-batching: whenever the device is free it takes everything compatible that waits; it never waits.

Items wait in *buckets*, one per model and shape, and are taken in the order that is fair (`waiting.py`), up
to the model's largest batch: a photo with a hundred tiles shares every batch with the photos behind it, and a
tenant with a hundred photos with the tenants behind it. A failing batch is halved until the bad item stands
alone; a batch that does not fit into memory is halved too, and the size that fits is kept to for a while.
Where large batches gain nothing they are small (`knees.py`).
After an error that the device does not recover from, nothing more is tried on it.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from consumer.models.batch_info import BatchInfo, Ending, Trigger
from consumer.models.device import DeviceThread
from consumer.models.knees import Knees
from consumer.models.replies import Call, Request, answer, fail
from consumer.models.runner import AnyRunner, Pads
from consumer.models.waiting import EVEN, Key, Owner, Shares, Waiting
from pipeline_steps.errors import DeviceFailed, DeviceOverloaded, ModelUnavailable

_FIT_SECONDS = 300.0
"""How long a batch is kept to the size that fitted into memory."""
NOBODY = Owner(None, None)


class BatchSizeMismatch(RuntimeError):
    """A model that did not answer every item: it is a bug in its runner."""


class _Batch(NamedTuple):
    key: Key
    runner: AnyRunner
    items: list[tuple[Hashable, Request]]
    """With the tenant of each."""
    trigger: Trigger
    allowed: int
    """Items that the model and the memory allow."""

    @property
    def requests(self) -> list[Request]:
        return [request for _, request in self.items]


class _Fit(NamedTuple):
    """How many items of a bucket fit into the device's memory."""

    size: int
    until: float
    """When more are tried again: what else took the memory may be gone."""


class Batcher:
    """The batches of one device.

    Args:
        thread: the device's thread.
        on_batch: told of every batch, on that thread: it must be quick and may not raise.
        on_broken: told, on that thread, why the device answers nobody any more.
        make_room: asked, on that thread, to give up memory when it ran out, and whether there was any.
        shares: of the device's time, by tenant.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        thread: DeviceThread,
        *,
        on_batch: Callable[[BatchInfo], None] = lambda _: None,
        on_broken: Callable[[str], None] = lambda _: None,
        make_room: Callable[[], bool] = lambda: False,
        shares: Shares = EVEN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._thread = thread
        self._on_batch = on_batch
        self._on_broken = on_broken
        self._make_room = make_room
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting = Waiting(shares)
        self._halves: deque[_Batch] = deque()
        self._fits: dict[Key, _Fit] = {}
        self._knees = Knees()
        self._has_turn = False
        self._running = 0
        self._free_since = clock()
        self._closed = ""
        """Why nothing is taken any more."""

    async def submit(
        self, model: str, runner: AnyRunner, ready: Sequence[Any], *, owner: Owner = NOBODY
    ) -> list[Any]:
        """Return one answer for each of the prepared items, in order.

        Cancelling drops the items that are not on the device yet.

        Args:
            model: the model's name.
            runner: the model, on this device.
            ready: what its `prepare` gave.
            owner: for whom: tenants share the device, and a tenant's jobs its share.

        Raises:
            DeviceOverloaded: an item does not fit into the device's memory even alone.
            DeviceFailed: the device broke while it had one of these items.
            ModelUnavailable: the batcher was closed, or the device broke before.
            Exception: what the model raised for one of these items alone.
        """
        if not ready:
            return []
        keys = [Key(model, runner.bucket(item)) for item in ready]
        call = Call(len(ready))
        now = self._clock()
        with self._lock:
            if self._closed:
                raise ModelUnavailable(f"model {model!r}: {self._closed}")
            for position, (key, item) in enumerate(zip(keys, ready, strict=True)):
                self._waiting.add(key, runner, owner, Request(call, position, item, now))
        # Not at once: everybody who was answered by the last batch asks again in this same round of the loop,
        # and would otherwise miss the batch that the first of them starts.
        call.loop.call_soon(self._wake)
        return await call.reply

    def waiting(self) -> int:
        """Return how many items wait for the device."""
        with self._lock:
            return len(self._waiting) + sum(len(batch.items) for batch in self._halves)

    def load(self) -> int:
        """Return how many items the device has before it is free: those that wait, and those it is at."""
        return self.waiting() + self._running

    def close(self, why: str = "the worker is shutting down") -> None:
        """Take nothing more; whoever still waits gets `ModelUnavailable`."""
        with self._lock:
            self._closed = self._closed or why
            left = self._waiting.clear()
            left += [request for batch in self._halves for request in batch.requests]
            self._halves.clear()
        for call in {id(request.call): request.call for request in left}.values():
            fail(call, ModelUnavailable(why))

    # From here on: the device's thread.

    def _wake(self) -> None:
        with self._lock:
            if self._has_turn:
                return
            self._has_turn = True
        self._thread.post(self._turn)

    def _turn(self) -> None:
        """Run one batch; if more waits, queue for another turn, behind whatever else the device is to do."""
        batch = self._next()
        if batch is not None:
            self._running = len(batch.items)
            self._run(batch)
            self._running = 0
            del batch  # the pictures in it are not needed while we wait
        with self._lock:
            self._has_turn = bool(self._waiting or self._halves)
            again = self._has_turn
        if again:
            self._thread.post(self._turn)

    def _next(self) -> _Batch | None:
        with self._lock:
            while self._halves:
                batch = self._halves.popleft()
                if items := [item for item in batch.items if not item[1].call.over]:
                    return batch._replace(items=items)
            while following := self._waiting.next_key():
                key, runner = following
                allowed = self._most(key, runner)
                most = self._knees.most(key, allowed, len(self._waiting))
                if items := self._waiting.take(key, most):
                    trigger = Trigger.FULL if len(items) == most else Trigger.FREE
                    return _Batch(key, runner, items, trigger, allowed)
        return None

    def _most(self, key: Key, runner: AnyRunner) -> int:
        """Return how many items a batch may have: the model's most, or what fitted lately."""
        most, fit = runner.max_batch(key.bucket), self._fits.get(key)
        if fit is None:
            return most
        if self._clock() > fit.until:
            fit = self._fits[key] = _Fit(2 * fit.size, self._clock() + _FIT_SECONDS)
            if fit.size >= most:
                del self._fits[key]
        return min(most, fit.size)

    def _run(self, batch: _Batch) -> None:
        began = self._clock()
        answers: Sequence[Any] = ()
        failure: Exception | None = None
        out_of_memory = False
        try:
            answers = _one_each(batch, batch.runner.run([request.ready for request in batch.requests]))
        except Exception as error:  # noqa: BLE001  handed on to the callers, below
            # The traceback's frames hold the tensors of the failed batch: they must go before the next try.
            # Ours must leave the traceback, or it and the error would hold each other.
            traceback.clear_frames(error.__traceback__)
            out_of_memory = self._thread.device.is_out_of_memory(error)
            failure = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
        ended = self._clock()
        with self._lock:
            self._waiting.charge(batch.key, (tenant for tenant, _ in batch.items), ended - began)
            if failure is None:
                self._knees.note(batch.key, len(batch.items), batch.allowed, ended - began)
        self._tell(batch, began, ended, _ending(failure, out_of_memory=out_of_memory))
        if failure is None:
            answer(batch.requests, answers)
            return
        if self._thread.device.is_broken(failure):
            # Its batch may be what broke it, so those messages have used up an attempt; the others have not.
            why = f"{self._thread.device.name} is broken: {failure}"
            for request in batch.requests:
                fail(request.call, DeviceFailed(f"model {batch.key.model!r}: {why}"))
            self.close(why)
            self._on_broken(why)
            return
        if out_of_memory:
            failure = DeviceOverloaded(
                f"model {batch.key.model!r}: {self._thread.device.name} has not enough memory for one item "
                f"of {batch.key.bucket} ({failure})"
            )
            has_room = self._make_room()
            self._thread.device.release_memory()
            if has_room:
                with self._lock:
                    self._halves.appendleft(batch)
                return
        self._divide(batch, failure, out_of_memory=out_of_memory)

    def _tell(self, batch: _Batch, began: float, ended: float, ending: Ending) -> None:
        runner, waits = batch.runner, [began - request.since for request in batch.requests]
        fill = runner.fill([request.ready for request in batch.requests]) if isinstance(runner, Pads) else 1.0
        self._on_batch(
            BatchInfo(
                batch.key.model,
                batch.key.bucket,
                len(batch.items),
                runner.max_batch(batch.key.bucket),
                batch.trigger,
                ending,
                ended - began,
                waits,
                min(began - self._free_since, max(waits)),
                fill,
                [request.call.asker for request in batch.requests],
            )
        )
        self._free_since = self._clock()

    def _divide(self, batch: _Batch, failure: Exception, *, out_of_memory: bool) -> None:
        """Give each half of a failed batch another try; fail the item that stands alone."""
        size = len(batch.items)
        if size == 1:
            fail(batch.requests[0].call, failure)
            return
        middle = (size + 1) // 2
        with self._lock:
            if out_of_memory:
                self._fits[batch.key] = _Fit(middle, self._clock() + _FIT_SECONDS)
            for half in (batch.items[middle:], batch.items[:middle]):
                self._halves.appendleft(batch._replace(items=half, trigger=Trigger.SPLIT))


def _ending(failure: Exception | None, *, out_of_memory: bool) -> Ending:
    if failure is None:
        return Ending.ANSWERED
    return Ending.OUT_OF_MEMORY if out_of_memory else Ending.FAILED


def _one_each(batch: _Batch, answers: Sequence[Any]) -> Sequence[Any]:
    if len(answers) != len(batch.requests):
        raise BatchSizeMismatch(
            f"model {batch.key.model!r} gave {len(answers)} answers to {len(batch.requests)} items"
        )
    return answers
