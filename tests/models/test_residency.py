"""Models that do not all fit: who is loaded, who has to go, who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.models import residency
from consumer.models.residency import DeviceFull, Residency
from pipeline_steps.errors import DeviceOverloaded, ModelUnavailable

SIZES = {"a": 4, "b": 4, "c": 4, "large": 8, "pinned": 2}


class Shelf:
    """A device of so many bytes, and the story of what was put on it."""

    def __init__(self, budget: int | None, room: int = 100) -> None:
        self.room = room
        self.story: list[str] = []
        self.tries = 0
        self.on: set[str] = set()
        self.budget = budget
        self.residency = Residency(budget, self._load, self._unload)

    async def _load(self, name: str) -> int:
        await asyncio.sleep(0)
        self.tries += 1
        if name == "broken":
            raise ModelUnavailable("broken")
        if sum(SIZES[one] for one in self.on) + SIZES[name] > self.room:
            raise DeviceFull(f"no room for {name}")
        self.on.add(name)
        self.story.append(f"+{name}")
        return SIZES[name]

    async def _unload(self, name: str) -> None:
        self.on.remove(name)
        self.story.append(f"-{name}")

    async def learn(self) -> None:
        """Load each model once, so that their sizes are known; the large one stays."""
        for name in ("a", "b", "c", "large"):
            await self.use(name)
        assert self.on == {"large"}
        self.story.clear()

    async def use(self, *names: str) -> None:
        async with self.residency.holding(names):
            assert self.on.issuperset(names)


def run(budget: int | None, scenario: Callable[[Shelf], Coroutine[Any, Any, None]], room: int = 100) -> Shelf:
    async def whole() -> Shelf:
        shelf = Shelf(budget, room)
        async with asyncio.timeout(10):
            await scenario(shelf)
        return shelf

    return asyncio.run(whole())


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_what_is_loaded_stays_until_its_room_is_needed_and_the_one_unused_for_longest_goes() -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.learn()
        for name in ("a", "b", "a", "c"):
            await shelf.use(name)

    assert run(8, scenario).story == ["-large", "+a", "+b", "-b", "+c"]


def test_without_a_budget_everything_stays() -> None:
    async def scenario(shelf: Shelf) -> None:
        for name in ("a", "b", "c", "large", "a"):
            await shelf.use(name)

    assert run(None, scenario).story == ["+a", "+b", "+c", "+large"]


@pytest.mark.parametrize("budget", [None, 100])
def test_where_a_model_does_not_fit_beside_others_that_nobody_uses_they_go(budget: int | None) -> None:
    async def scenario(shelf: Shelf) -> None:
        for name in ("a", "b", "large", "c"):
            await shelf.use(name)

    assert run(budget, scenario, room=8).story == ["+a", "+b", "-a", "-b", "+large", "-large", "+c"]


def test_where_a_model_does_not_fit_beside_others_in_use_it_waits_for_them() -> None:
    async def scenario(shelf: Shelf) -> None:
        async with shelf.residency.holding({"a"}):
            waiting = asyncio.create_task(shelf.use("large"))
            await turns()
            assert not waiting.done()
        await waiting

    assert run(None, scenario, room=8).story == ["+a", "-a", "+large"]


def test_who_waits_for_room_tries_again_only_when_there_is_more() -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.residency.pin("pinned")
        async with shelf.residency.holding({"a"}):
            waiting = asyncio.create_task(shelf.use("large"))
            await turns()
            for _ in range(50):
                await shelf.use("pinned")
                await turns()
            assert shelf.tries == 3
        await waiting
        assert shelf.tries == 4

    assert run(None, scenario, room=10).on == {"pinned", "large"}


def test_a_model_that_does_not_fit_alone_is_said() -> None:
    async def scenario(shelf: Shelf) -> None:
        with pytest.raises(ModelUnavailable, match="no room for large"):
            await shelf.use("a", "large")
        await shelf.use("a")

    assert run(None, scenario, room=7).on == {"a"}


def test_what_is_in_use_is_waited_for_and_those_who_wait_keep_their_order() -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.learn()
        async with AsyncExitStack() as held:
            await held.enter_async_context(shelf.residency.holding(["a", "b"]))
            later = [asyncio.create_task(shelf.use(name)) for name in ("large", "c")]
            await turns()
            assert shelf.on == {"a", "b"}
        await asyncio.gather(*later)

    assert run(8, scenario).story == ["-large", "+a", "+b", "-a", "-b", "+large", "-large", "+c"]


def test_two_jobs_that_need_the_same_two_models_never_wait_for_each_other() -> None:
    async def scenario(shelf: Shelf) -> None:
        await asyncio.gather(
            *(shelf.use(*pair) for pair in [("a", "b"), ("b", "a"), ("b", "c"), ("c", "a")] * 5)
        )

    run(8, scenario)


def test_models_that_do_not_fit_together_are_not_left_there_together() -> None:
    async def scenario(shelf: Shelf) -> None:
        for _ in range(2):  # whose sizes were not known, and then were
            with pytest.raises(ModelUnavailable, match=r"models a, b: .* MODEL_MEMORY is 7"):
                await shelf.use("a", "b")
            assert len(shelf.residency.resident) == 1

    run(7, scenario)


def test_models_that_do_not_fit_together_are_said_at_once() -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.residency.pin("pinned")
        await shelf.use("a")
        await shelf.use("b")
        with pytest.raises(ModelUnavailable, match=r"models a, b: .* take 10 bytes .* MODEL_MEMORY is 8"):
            await shelf.use("a", "b")
        await shelf.use("a")

    run(8, scenario)


def test_pinned_models_beyond_the_budget_are_a_failed_start() -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.residency.pin("a")
        with pytest.raises(ModelUnavailable, match=r"pinned models take 8 bytes .* MODEL_MEMORY is 6"):
            await shelf.residency.pin("b")

    run(6, scenario)


def test_a_model_that_does_not_load_holds_nobody_up() -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.learn()
        with pytest.raises(ModelUnavailable, match="broken"):
            await shelf.use("a", "broken")
        await shelf.use("large")

    assert run(8, scenario).story == ["-large", "+a", "-a", "+large"]


def test_who_gives_up_waiting_is_not_waited_for() -> None:
    async def scenario(shelf: Shelf) -> None:
        await shelf.learn()
        async with shelf.residency.holding(["large"]):
            impatient = asyncio.create_task(shelf.use("a"))
            await turns()
            impatient.cancel()
            await asyncio.gather(impatient, return_exceptions=True)
        await shelf.use("b")

    assert run(8, scenario).story == ["-large", "+b"]


def test_a_model_nobody_announced_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "_UNANNOUNCED_WAIT", 0.05)

    async def scenario(shelf: Shelf) -> None:
        await shelf.learn()
        async with shelf.residency.holding(["large"]):
            with pytest.raises(DeviceOverloaded, match="model 'a': no room"):
                async with shelf.residency.holding_unannounced("a"):
                    pass
        async with shelf.residency.holding_unannounced("a"):
            assert "a" in shelf.on

    run(8, scenario)


@given(
    jobs=st.lists(st.sets(st.sampled_from("abc"), min_size=1, max_size=2), max_size=12),
    budget=st.integers(8, 12),
)
@settings(deadline=None, max_examples=60)
def test_every_job_gets_its_models_and_the_budget_is_kept(jobs: list[set[str]], budget: int) -> None:
    async def scenario(shelf: Shelf) -> None:
        async def job(names: set[str], patience: int) -> None:
            async with shelf.residency.holding(names):
                assert shelf.on >= names
                await turns(patience)
                assert shelf.on >= names

        await asyncio.gather(*(job(names, number % 5) for number, names in enumerate(jobs)))
        assert sum(SIZES[name] for name in shelf.on) <= budget

    run(budget, scenario)
