"""Micro-batching: whenever the device is free it takes everything compatible that waits; it never waits.

Items wait in *buckets*, one per model and shape. The device takes from the bucket that has gone unserved the
longest, up to the model's largest batch, one item of each job in turn: a photo with a hundred tiles shares
every batch with the photos behind it. A failing batch is halved until the bad item stands alone; a batch that
does not fit into memory is halved too, and the size that fits is remembered.
"""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from consumer.models.device import DeviceThread
from consumer.models.runner import AnyRunner
from consumer.models.waiting import Bucket, Call, Key, Request
from pipeline_steps.errors import DeviceOverloaded, ModelUnavailable


class Trigger(StrEnum):
    """Why a batch left with the items it had."""

    FULL = "full"
    """It was as large as the model, or the memory, allows."""
    FREE = "free"
    """The device was free and took all that waited."""
    SPLIT = "split"
    """It is half of a batch that failed."""


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """One batch that ran, for the metrics."""

    model: str
    bucket: Hashable
    size: int
    trigger: Trigger
    seconds: float
    """On the device, successful or not."""
    waited: float
    """Seconds its oldest item had waited before it began."""


class BatchSizeMismatch(RuntimeError):
    """A model that did not answer every item: it is a bug in its runner."""


class _Batch(NamedTuple):
    key: Key
    runner: AnyRunner
    requests: list[Request]
    trigger: Trigger


class Batcher:
    """The batches of one device.

    Args:
        thread: the device's thread.
        on_batch: told of every batch, on that thread: it must be quick and may not raise.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        thread: DeviceThread,
        *,
        on_batch: Callable[[BatchInfo], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._thread = thread
        self._on_batch = on_batch
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[Key, Bucket] = OrderedDict()
        self._halves: deque[_Batch] = deque()
        self._fits: dict[Key, int] = {}
        self._has_turn = False
        self._closed = False

    async def submit(
        self, model: str, runner: AnyRunner, ready: Sequence[Any], *, job: Hashable = None
    ) -> list[Any]:
        """Return one answer for each of the prepared items, in order.

        Cancelling drops the items that are not on the device yet.

        Args:
            model: the model's name.
            runner: the model, on this device.
            ready: what its `prepare` gave.
            job: items of one job take turns with those of others.

        Raises:
            DeviceOverloaded: an item does not fit into the device's memory even alone.
            ModelUnavailable: the batcher was closed.
            Exception: what the model raised for one of these items alone.
        """
        if not ready:
            return []
        keys = [Key(model, runner.bucket(item)) for item in ready]
        call = Call(len(ready))
        now = self._clock()
        with self._lock:
            if self._closed:
                raise ModelUnavailable(f"model {model!r}: the worker is shutting down")
            for position, (key, item) in enumerate(zip(keys, ready, strict=True)):
                bucket = self._buckets.setdefault(key, Bucket(runner))
                bucket.jobs.setdefault(job, deque()).append(Request(call, position, item, now))
        # Not at once: everybody who was answered by the last batch asks again in this same round of the loop,
        # and would otherwise miss the batch that the first of them starts.
        call.loop.call_soon(self._wake)
        return await call.reply

    def waiting(self) -> int:
        """Return how many items wait for the device."""
        with self._lock:
            queued = sum(len(queue) for bucket in self._buckets.values() for queue in bucket.jobs.values())
            return queued + sum(len(batch.requests) for batch in self._halves)

    def close(self) -> None:
        """Take nothing more; whoever still waits gets `ModelUnavailable`."""
        with self._lock:
            self._closed = True
            left = [request for bucket in self._buckets.values() for request in bucket.take(1 << 62)]
            left += [request for batch in self._halves for request in batch.requests]
            self._buckets.clear()
            self._halves.clear()
        for call in {id(request.call): request.call for request in left}.values():
            _fail(call, ModelUnavailable("the worker is shutting down"))

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
            self._run(batch)
            del batch  # the pictures in it are not needed while we wait
        with self._lock:
            self._has_turn = bool(self._buckets or self._halves)
            again = self._has_turn
        if again:
            self._thread.post(self._turn)

    def _next(self) -> _Batch | None:
        with self._lock:
            while self._halves:
                key, runner, requests, trigger = self._halves.popleft()
                if requests := [request for request in requests if not request.call.over]:
                    return _Batch(key, runner, requests, trigger)
            while self._buckets:
                key, bucket = self._buckets.popitem(last=False)
                most = min(bucket.runner.max_batch(key.bucket), self._fits.get(key, 1 << 62))
                requests = bucket.take(most)
                if bucket.jobs:
                    self._buckets[key] = bucket  # behind the others
                if requests:
                    trigger = Trigger.FULL if len(requests) == most else Trigger.FREE
                    return _Batch(key, bucket.runner, requests, trigger)
        return None

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
        self._on_batch(
            BatchInfo(
                batch.key.model,
                batch.key.bucket,
                len(batch.requests),
                batch.trigger,
                ended - began,
                began - min(request.since for request in batch.requests),
            )
        )
        if failure is None:
            _answer(batch.requests, answers)
            return
        if out_of_memory:
            failure = DeviceOverloaded(
                f"model {batch.key.model!r}: {self._thread.device.name} has not enough memory for one item "
                f"of {batch.key.bucket} ({failure})"
            )
            self._thread.device.release_memory()
        self._divide(batch, failure, out_of_memory=out_of_memory)

    def _divide(self, batch: _Batch, failure: Exception, *, out_of_memory: bool) -> None:
        """Give each half of a failed batch another try; fail the item that stands alone."""
        size = len(batch.requests)
        if size == 1:
            _fail(batch.requests[0].call, failure)
            return
        middle = (size + 1) // 2
        with self._lock:
            if out_of_memory:
                self._fits[batch.key] = min(self._fits.get(batch.key, size), middle)
            for half in (batch.requests[middle:], batch.requests[:middle]):
                self._halves.appendleft(_Batch(batch.key, batch.runner, half, Trigger.SPLIT))


def _one_each(batch: _Batch, answers: Sequence[Any]) -> Sequence[Any]:
    if len(answers) != len(batch.requests):
        raise BatchSizeMismatch(
            f"model {batch.key.model!r} gave {len(answers)} answers to {len(batch.requests)} items"
        )
    return answers


def _answer(requests: Sequence[Request], answers: Sequence[Any]) -> None:
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


def _fail(call: Call, failure: Exception) -> None:
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
