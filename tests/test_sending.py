"""Many small things at a pace, a bounded number at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest

from consumer.interrupt import Stop, interruptible
from consumer.sending import Pace, start_each

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


def test_a_pace_is_even_and_a_slow_moment_is_no_reason_for_a_burst() -> None:
    now = [100.0]
    pace = Pace(10, lambda: now[0])
    pauses = []
    for _ in range(4):
        pauses.append(pause := pace.pause())
        now[0] += pause
    assert pauses == pytest.approx([0, 0.1, 0.1, 0.1])

    now[0] += 60
    after_a_minute = [pace.pause() for _ in range(4)]
    assert after_a_minute == pytest.approx([0, 0.05, 0.15, 0.25])


async def test_a_pace_is_kept_on_the_whole() -> None:
    begun: list[float] = []

    async def act(_: int) -> None:
        begun.append(time.monotonic())

    await start_each(numbers(101), act, stop=Stop(), pace=Pace(200))
    assert begun[-1] - begun[0] == pytest.approx(0.5, rel=0.3)
    most = max(sum(start <= moment < start + 0.1 for moment in begun) for start in begun)
    assert most <= 0.15 * 200 + 2


async def test_no_more_are_under_way_than_are_allowed() -> None:
    under_way = most = done = 0

    async def act(_: int) -> None:
        nonlocal under_way, most, done
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        done += 1

    await start_each(numbers(50), act, stop=Stop(), pace=Pace(None), at_once=7)
    assert (most, done) == (7, 50)


async def test_what_was_begun_is_finished_when_it_is_asked_to_stop() -> None:
    stop, begun, finished = Stop(), [], []

    async def act(number: int) -> None:
        begun.append(number)
        if number == 9:
            stop.interrupt()
        await asyncio.sleep(0.02)
        finished.append(number)

    await start_each(numbers(1000), act, stop=stop, pace=Pace(None), at_once=4)
    assert begun == sorted(finished)
    assert 10 <= len(begun) < 14


async def test_a_stop_ends_a_long_pause_at_once() -> None:
    stop = Stop()

    async def act(_: int) -> None:
        asyncio.get_running_loop().call_later(0.05, stop.ask)

    async with asyncio.timeout(5):
        await start_each(numbers(2), act, stop=stop, pace=Pace(0.01))


async def test_an_error_of_the_items_is_raised_when_what_was_begun_is_finished() -> None:
    finished = []

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ZeroDivisionError

    async def act(number: int) -> None:
        await asyncio.sleep(0.02)
        finished.append(number)

    with pytest.raises(ZeroDivisionError):
        await start_each(broken(), act, stop=Stop(), pace=Pace(None))
    assert finished == [1]


async def test_an_error_in_what_is_done_ends_it_and_the_others_are_finished() -> None:
    finished, stop = [], Stop()

    async def act(number: int) -> None:
        await asyncio.sleep(0.01 * (5 - number))
        if number == 3:
            raise ZeroDivisionError
        finished.append(number)

    with pytest.raises(ZeroDivisionError):
        await start_each(numbers(100), act, stop=stop, pace=Pace(None), at_once=4)
    assert sorted(finished) == [0, 1, 2]
    assert (bool(stop), stop.interrupted) == (True, False)


async def test_a_cancellation_waits_for_nothing() -> None:
    cancelled = []

    async def act(number: int) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    task = asyncio.create_task(start_each(numbers(3), act, stop=Stop(), pace=Pace(None)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert sorted(cancelled) == [0, 1, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_asks_to_stop(number: signal.Signals) -> None:
    told = []
    async with interruptible(lambda: told.append(1)) as stop:
        assert not await stop.within(0.01)
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5):
            assert await stop.within(60)
        assert (stop.interrupted, told) == (True, [1])
        assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)
