"""One thread per device, which alone talks to it: several gain nothing, and break graphs and caches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import Protocol, TypeVar

T = TypeVar("T")


class Device(Protocol):
    """What computes: a GPU, the CPU, or a simulation of one. Its calls come from its thread only."""

    name: str
    """As the operator names it: `cpu`, `cuda:0`."""

    def session(self) -> AbstractContextManager[None]:
        """Return the context its thread lives in, such as inference mode."""
        ...

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Say whether a smaller batch may succeed where this error was raised."""
        ...

    def is_broken(self, error: BaseException) -> bool:
        """Say whether nothing can be computed in this process any more after this error."""
        ...

    def memory(self) -> int:
        """Return the bytes in use on it."""
        ...

    def release_memory(self) -> None:
        """Give back what is cached but not used."""
        ...


class DeviceThread:
    """Runs work on a device, one piece at a time, in the order it was posted.

    The thread is a daemon: a device that hangs must not keep the process from ending.
    """

    def __init__(self, device: Device, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.device = device
        self._clock = clock
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"device-{device.name}", daemon=True)
        self._thread.start()

    def post(self, work: Callable[[], None]) -> None:
        """Queue `work`, which raises nothing; an error in it ends the thread, and liveness sees that."""
        self._work.put(work)

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Queue `work` and return what it will give, or raise."""
        reply: Future[T] = Future()

        def answer() -> None:
            if not reply.set_running_or_notify_cancel():
                return
            try:
                reply.set_result(work())
            except BaseException as error:  # noqa: BLE001  handed on to whoever waits
                reply.set_exception(error)

        self.post(answer)
        return reply

    def busy_for(self) -> float:
        """Return for how many seconds the present piece of work has been running; 0 when idle."""
        since = self._busy_since  # read once: the device's thread may clear it meanwhile
        return 0.0 if since is None else self._clock() - since

    @property
    def alive(self) -> bool:
        """Whether the thread still takes work."""
        return self._thread.is_alive()

    def close(self, timeout: float) -> bool:
        """Stop after the work posted so far; return whether that ended within `timeout` seconds."""
        self._work.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with self.device.session():
            while (work := self._work.get()) is not None:
                self._busy_since = self._clock()
                work()
                self._busy_since = None
                del work  # or its tensors would live until the next piece arrives
