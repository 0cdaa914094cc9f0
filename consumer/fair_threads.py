"""Threads for what the CPU does: one tenant's photos do not stand before another tenant's.

Calls wait by tenant. A thread that is free takes the next one of the tenant that has the fewest threads, and
the last thread takes only one of a tenant that has none: so a small photo is decoded at once, however many
large ones came before. How threads share the cores is the system's affair, and it is fair; only what keeps
leases and answers goes first, the event loop and its requests, and beside others one call of a newcomer.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

_NICE = 10
"""On Linux a tenth of a core that another thread wants too, and all of it otherwise."""

P = ParamSpec("P")
T = TypeVar("T")


class FairThreads:
    """A number of threads that tenants share.

    Args:
        threads: how many; from three on the last is kept for a tenant that has none.
        name: what they are called.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._count = threads
        self._kept_free = 1 if threads >= 3 else 0
        most = threads - self._kept_free
        self._threads = ThreadPoolExecutor(most, thread_name_prefix=name, initializer=_give_way)
        # Only a thread that never gave way can go first: nobody but root gets a priority back.
        self._first = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-first") if self._kept_free else None
        self._is_first_free = self._first is not None
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, deque[tuple[Future[Any], Callable[[], Any]]]] = {}
        """Those who waited for longest come first."""
        self._running: Counter[Hashable] = Counter()
        self._closed = False

    def of(self, tenant: Hashable) -> Executor:
        """Return the threads as one tenant uses them."""
        return _Tenants(self, tenant)

    def submit(self, tenant: Hashable, call: Callable[[], T]) -> Future[T]:
        """Run `call` for a tenant when its turn has come.

        Raises:
            RuntimeError: the threads were shut down.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the threads were shut down")
            self._waiting.setdefault(tenant, deque()).append((future, call))
            self._start()
        return future

    def shutdown(self, *, wait: bool = True) -> None:
        """Begin nothing more, and cancel what waits."""
        with self._lock:
            self._closed = True
            left = [future for calls in self._waiting.values() for future, _ in calls]
            self._waiting.clear()
        for future in left:
            future.cancel()
        for threads in filter(None, (self._threads, self._first)):
            threads.shutdown(wait=wait)

    def __enter__(self) -> Self:
        """Use them while the context lasts."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Shut them down."""
        self.shutdown()

    def _start(self) -> None:
        """Begin what may begin; called with the lock held."""
        while self._waiting:
            free = self._count - self._running.total()
            tenant = min(self._waiting, key=self._running.__getitem__)
            if free <= (self._kept_free if self._running[tenant] else 0):
                return
            calls = self._waiting.pop(tenant)
            future, call = calls.popleft()
            if calls:
                self._waiting[tenant] = calls  # behind the others
            threads = self._threads
            if self._first and self._is_first_free and self._running and not self._running[tenant]:
                threads, self._is_first_free = self._first, False
            self._running[tenant] += 1
            threads.submit(self._run, tenant, future, call, threads)

    def _run(self, tenant: Hashable, future: Future[Any], call: Callable[[], Any], threads: Executor) -> None:
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(call())
        except BaseException as error:  # noqa: BLE001  handed on to whoever waits
            future.set_exception(error)
        finally:
            with self._lock:
                self._is_first_free |= threads is self._first
                self._running[tenant] -= 1
                self._running = +self._running  # names that messages choose must not pile up
                if not self._closed:
                    self._start()


def _give_way() -> None:
    """Let other threads of this process go first on a busy core; only Linux can tell threads apart."""
    if sys.platform == "linux":
        me = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, me, max(_NICE, os.getpriority(os.PRIO_PROCESS, me)))


class _Tenants(Executor):
    """One tenant's view, for `loop.run_in_executor`."""

    def __init__(self, threads: FairThreads, tenant: Hashable) -> None:
        self._shared = threads
        self._tenant = tenant

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a call when the tenant's turn has come."""
        return self._shared.submit(self._tenant, partial(fn, *args, **kwargs))
