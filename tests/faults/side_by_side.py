"""Runs fault tests four at a time: nearly all of their time is spent waiting for leases and for processes.

A test that asks for nothing but `peers`, a folder and its own parameters is run in a thread, with peers of
its own; all of them are begun when the first is due, and when its turn comes a test's outcome is fetched.
The others run as always. Tests marked `alone`, which measure time or need the machine, come last.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.peers import open_peers

AT_ONCE = 4
_OURS = {"peers", "tmp_path", "control"}


def is_side_by_side(item: pytest.Item) -> bool:
    """Whether the test runs beside others."""
    if not isinstance(item, pytest.Function) or item.get_closest_marker("alone"):
        return False
    parameters = set(item.callspec.params) if hasattr(item, "callspec") else set()
    return "tests.faults" in item.module.__name__ and _arguments(item) <= _OURS | parameters


def _arguments(item: pytest.Function) -> set[str]:
    return set(item._fixtureinfo.argnames)


class SideBySide:
    """The plug-in; one for each session."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fault")
        self._begun: dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        self._going_on = threading.Event()
        self._going_on.set()
        self._running = threading.Semaphore(AT_ONCE)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        """Fetch the test's outcome; the first begins all of them."""
        if not is_side_by_side(pyfuncitem):
            if pyfuncitem.get_closest_marker("alone"):
                wait(self._begun.values())
            return None
        if not self._begun:
            for item in pyfuncitem.session.items:
                if is_side_by_side(item):
                    self._begun[item.nodeid] = self._threads.submit(self._run, item)
        self._begun[pyfuncitem.nodeid].result()
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Have the others rest while a failure is described: two threads cannot parse Python at once."""
        if call.excinfo is None:
            return (yield)
        with self._resting():
            return (yield)

    def pytest_sessionfinish(self) -> None:
        """Begin no more."""
        self._threads.shutdown(cancel_futures=True)

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """Let those that run finish, and none begin while the context lasts."""
        self._going_on.clear()
        for _ in range(AT_ONCE):
            self._running.acquire()
        try:
            yield
        finally:
            self._running.release(AT_ONCE)
            self._going_on.set()

    def _run(self, item: pytest.Function) -> None:
        self._going_on.wait()
        with self._running:
            self._run_now(item)

    def _run_now(self, item: pytest.Function) -> None:
        parameters: dict[str, Any] = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        folder = self._folder(item)
        known = {**parameters, "tmp_path": folder / "tmp", "control": folder / "control"}
        known["tmp_path"].mkdir()
        arguments = {name: known[name] for name in _arguments(item) if name in known}
        if "peers" not in _arguments(item):
            item.obj(**arguments)
            return
        with open_peers(folder) as peers:
            item.obj(peers=peers, **arguments)

    def _folder(self, item: pytest.Function) -> Path:
        with self._lock:
            return self._factory.mktemp("".join(c if c.isalnum() else "-" for c in item.name)[:60])
