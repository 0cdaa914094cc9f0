"""Threads that tenants share."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import Future, wait

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.fair_threads import FairThreads

LIMIT = 10.0


class Calls:
    """Calls that say when they began, and end when they are told to."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.order: list[str] = []
        self.began = threading.Semaphore(0)

    def call(self, name: str) -> str:
        self.order.append(name)
        self.began.release()
        assert self.gate.wait(LIMIT)
        return name


@pytest.fixture
def calls() -> Calls:
    return Calls()


def test_a_newcomer_finds_a_thread_however_many_calls_came_before(calls: Calls) -> None:
    with FairThreads(4, "t") as threads:
        many = [threads.of("a").submit(calls.call, "a") for _ in range(50)]
        newcomer = threads.of("b").submit(calls.call, "b")
        for _ in range(4):
            assert calls.began.acquire(timeout=LIMIT)
        assert sorted(calls.order) == ["a", "a", "a", "b"]
        calls.gate.set()
        assert newcomer.result(LIMIT) == "b"
        assert [call.result(LIMIT) for call in many] == ["a"] * 50


def test_the_tenant_with_the_fewest_threads_is_next(calls: Calls) -> None:
    with FairThreads(2, "t") as threads:
        futures = [threads.of("a").submit(calls.call, "a") for _ in range(4)]
        for _ in range(2):
            assert calls.began.acquire(timeout=LIMIT)
        futures += [threads.of(name).submit(calls.call, name) for name in "bbc"]
        calls.gate.set()
        wait(futures, LIMIT)
    assert calls.order[2] == "b"
    assert sorted(calls.order) == ["a"] * 4 + ["b"] * 2 + ["c"]


def test_an_error_is_handed_to_whoever_waits_and_the_thread_goes_on() -> None:
    with FairThreads(1, "t") as threads:
        failing = threads.of("a").submit(int, "x")
        fine = threads.of("a").submit(int, "7")

        assert isinstance(failing.exception(LIMIT), ValueError)
        assert fine.result(LIMIT) == 7


def test_what_was_cancelled_while_it_waited_does_not_run(calls: Calls) -> None:
    with FairThreads(1, "t") as threads:
        first = threads.of("a").submit(calls.call, "first")
        assert calls.began.acquire(timeout=LIMIT)
        cancelled = threads.of("a").submit(calls.call, "cancelled")
        last = threads.of("a").submit(calls.call, "last")
        assert cancelled.cancel()
        calls.gate.set()
        assert (first.result(LIMIT), last.result(LIMIT)) == ("first", "last")
    assert calls.order == ["first", "last"]


def test_shutting_down_cancels_what_waits(calls: Calls) -> None:
    threads = FairThreads(1, "t")
    threads.of("a").submit(calls.call, "first")
    assert calls.began.acquire(timeout=LIMIT)
    waiting = threads.of("b").submit(calls.call, "b")

    calls.gate.set()
    threads.shutdown()

    assert waiting.cancelled() or waiting.result(LIMIT) == "b"
    with pytest.raises(RuntimeError, match="shut down"):
        threads.of("a").submit(int)


def test_a_loop_can_await_them() -> None:
    async def asked() -> int:
        return await asyncio.get_running_loop().run_in_executor(threads.of("a"), int, "7")

    with FairThreads(3, "t") as threads:
        assert asyncio.run(asked()) == 7


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives a thread a priority of its own")
@pytest.mark.parametrize("count", [1, 4])
def test_the_event_loop_goes_before_what_only_computes(count: int) -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    with FairThreads(count, "t") as threads:
        theirs = threads.submit("a", priority).result(LIMIT)

    assert theirs >= max(10, priority())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives a thread a priority of its own")
def test_beside_others_a_newcomer_goes_before_them(calls: Calls) -> None:
    def priority(name: str) -> int:
        calls.call(name)
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    with FairThreads(4, "t") as threads:
        many = [threads.of("a").submit(priority, "a") for _ in range(5)]
        for _ in range(3):
            assert calls.began.acquire(timeout=LIMIT)
        newcomer = threads.of("b").submit(priority, "b")
        assert calls.began.acquire(timeout=LIMIT)
        calls.gate.set()

        assert newcomer.result(LIMIT) < min(one.result(LIMIT) for one in many)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 5), names=st.lists(st.sampled_from("abcd"), max_size=60))
def test_every_call_runs_once_and_never_more_at_a_time_than_there_are_threads(
    count: int, names: list[str]
) -> None:
    lock, now, most, ran = threading.Lock(), 0, 0, 0

    def call() -> None:
        nonlocal now, most, ran
        with lock:
            now, ran = now + 1, ran + 1
            most = max(most, now)
        with lock:
            now -= 1

    with FairThreads(count, "t") as threads:
        futures: list[Future[None]] = [threads.of(name).submit(call) for name in names]
        _, late = wait(futures, LIMIT)

    assert not late
    assert ran == len(names)
    assert most <= count
