"""A device and models that only pretend: for tests, and for benchmarks of the worker itself.

A batch of `b` items takes `fixed + per_item * b` seconds, spent asleep: like a GPU, it leaves the CPU alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from consumer.models.device import Device
from consumer.models.loader import Place
from consumer.models.manifest import ModelEntry
from consumer.models.runner import AnyRunner, Sought, batch_sizes


class SimulatedOutOfMemory(RuntimeError):
    """The pretended device has not enough memory for this batch."""


class SimulatedBreak(RuntimeError):
    """The pretended device is broken, as a GPU is after an illegal memory access."""


class SimulatedDevice:
    """A device without hardware."""

    def __init__(self, name: str = "simulated") -> None:
        self.name = name
        self.used = 0
        """Bytes that models pretend to take."""
        self.released = 0
        """How often it was asked to give memory back."""

    @contextmanager
    def session(self) -> Iterator[None]:
        """Nothing to enter."""
        yield

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Its own error only."""
        return isinstance(error, SimulatedOutOfMemory)

    def is_broken(self, error: BaseException) -> bool:
        """Its own error only."""
        return isinstance(error, SimulatedBreak)

    def memory(self) -> int:
        """As told."""
        return self.used

    def release_memory(self) -> None:
        """Count it."""
        self.released += 1


class SimulatedRunner:
    """Answers every item by `answer`, and misbehaves as told.

    Args:
        answer: what an item gives.
        fixed: seconds a batch takes whatever its size.
        per_item: seconds each item adds.
        largest: most items in a batch.
        bucket: what items must have in common to share one.
        memory: items the device has memory for; a larger batch raises `SimulatedOutOfMemory`.
        bad: items that raise `ValueError` in whatever batch they are.
        fill: the share of a batch that is not padding.
        costly: whether preparing an item is worth a thread.

    Attributes:
        batches: every batch that was tried, in order.
        gate: batches go on only while it is set; clear it to make the device hang.
        started: set when a batch starts.
        warmed_up: the batch sizes of the last warm-up.
    """

    def __init__(
        self,
        answer: Callable[[Any], Any] = lambda item: item,
        *,
        fixed: float = 0.0,
        per_item: float = 0.0,
        largest: int = 8,
        bucket: Callable[[Any], Hashable] = lambda _: None,
        memory: int | None = None,
        bad: Collection[Any] = (),
        fill: float = 1.0,
        costly: bool = False,
    ) -> None:
        self._answer = answer
        self._fixed = fixed
        self._per_item = per_item
        self._largest = largest
        self._bucket = bucket
        self._costly = costly
        self._fill = fill
        self.memory = memory
        self.bad = bad
        self.batches: list[list[Any]] = []
        self.warmed_up: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()

    def costly(self, item: Any) -> bool:
        """As told."""
        del item
        return self._costly

    def prepare(self, item: Any) -> Any:
        """Nothing to do; what is sought in a picture makes no difference."""
        return item.picture if isinstance(item, Sought) else item

    def bucket(self, ready: Any) -> Hashable:
        """As told."""
        return self._bucket(ready)

    def max_batch(self, bucket: Hashable) -> int:
        """As told."""
        del bucket
        return self._largest

    def fill(self, batch: Sequence[Any]) -> float:
        """As told."""
        del batch
        return self._fill

    def run(self, batch: Sequence[Any]) -> list[Any]:
        """Take the time, then answer or misbehave."""
        self.batches.append(list(batch))
        self.started.set()
        self.gate.wait()
        time.sleep(self._fixed + self._per_item * len(batch))
        if self.memory is not None and len(batch) > self.memory:
            raise SimulatedOutOfMemory(f"{len(batch)} items, memory for {self.memory}")
        for item in batch:
            if item in self.bad:
                raise ValueError(f"{item!r} is bad")
        return [self._answer(item) for item in batch]

    def warm_up(self) -> None:
        """Note the sizes."""
        self.warmed_up = list(batch_sizes(self._largest))


class SimulatedLoader:
    """Gives models their runners by name.

    Attributes:
        loads: the models loaded, in order.
    """

    def __init__(self, runners: Mapping[str, AnyRunner]) -> None:
        self._runners = runners
        self.loads: list[str] = []

    async def load(self, model: ModelEntry, devices: int) -> Place:
        """Return the model's runner, the same one for all devices."""
        del devices
        self.loads.append(model.name)
        runner = self._runners[model.name]

        def place(device: Device) -> AnyRunner:
            del device
            return runner

        return place
