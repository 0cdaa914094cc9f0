"""Running side by side, and alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from consumer.run_gate import RunGate


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=12))
def test_whoever_is_alone_has_nobody_beside_him_and_all_come_through(
    runs: Sequence[tuple[bool, int]],
) -> None:
    inside: list[bool] = []
    ended = 0

    async def run(gate: RunGate, alone: bool, turns: int) -> None:
        nonlocal ended
        async with gate.enter(alone=alone):
            inside.append(alone)
            for _ in range(turns):
                assert len(inside) == 1 or True not in inside
                await asyncio.sleep(0)
            inside.remove(alone)
        ended += 1

    async def story() -> None:
        gate = RunGate()
        await asyncio.gather(*(run(gate, alone, turns) for alone, turns in runs))

    asyncio.run(story())
    assert ended == len(runs)


def test_whoever_waits_to_be_alone_is_not_overtaken() -> None:
    order: list[str] = []

    async def run(gate: RunGate, name: str, go: asyncio.Event, *, alone: bool = False) -> None:
        async with gate.enter(alone=alone):
            order.append(name)
            await go.wait()

    async def story() -> None:
        gate, first_may_end, others_may_end = RunGate(), asyncio.Event(), asyncio.Event()
        others_may_end.set()
        tasks = [asyncio.create_task(run(gate, "first", first_may_end))]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(run(gate, "suspect", others_may_end, alone=True)))
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(run(gate, "late", others_may_end)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert order == ["first"]
        first_may_end.set()
        await asyncio.gather(*tasks)

    asyncio.run(story())
    assert order == ["first", "suspect", "late"]


def test_one_that_is_cancelled_while_it_waits_blocks_nobody() -> None:
    async def story() -> None:
        gate = RunGate()
        async with gate.enter(alone=False):
            waiting = asyncio.create_task(_alone(gate))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(5), gate.enter(alone=False):
            pass
        async with asyncio.timeout(5), gate.enter(alone=True):
            pass

    async def _alone(gate: RunGate) -> None:
        async with gate.enter(alone=True):
            raise AssertionError("somebody else is inside")

    asyncio.run(story())
