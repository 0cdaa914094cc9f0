"""Warming up after the worker is ready: sooner ready, and what is asked first waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from consumer.models.manifest import Manifest
from consumer.models.pool import ModelPool
from consumer.models.simulated import SimulatedDevice, SimulatedLoader, SimulatedRunner
from tests.models.random_models import entry
from tests.models.test_pool import PICTURE, run


def late_pool(runner: SimulatedRunner, on_broken: Callable[[str], None] = lambda _: None) -> ModelPool:
    models = [entry("plants"), entry("rare", pinned=False)]
    loader = SimulatedLoader({"plants": runner, "rare": SimulatedRunner(id)})
    return ModelPool(
        Manifest("/models", models), [SimulatedDevice()], loader, on_broken=on_broken, warm_up_first=False
    )


class Watched(SimulatedRunner):
    """Says in which order it is warmed up and asked."""

    def __init__(self) -> None:
        super().__init__(id)
        self.order: list[str] = []

    def warm_up(self) -> None:
        self.order.append("warm-up")
        super().warm_up()

    def run(self, batch: list[object]) -> list[object]:  # type: ignore[override]
        self.order.append("asked")
        return super().run(batch)


def test_what_is_asked_first_waits_for_the_warm_up() -> None:
    runner = Watched()
    pool = late_pool(runner)

    async def scenario() -> None:
        await pool.start()
        assert pool.ready
        await pool.detect("plants", [PICTURE])

    run(scenario, pool)

    assert runner.order == ["warm-up", "asked"]
    assert runner.warmed_up == [1, 2, 4, 8]


def test_what_does_not_survive_it_breaks_the_worker() -> None:
    class Broken(SimulatedRunner):
        def warm_up(self) -> None:
            raise ValueError("no")

    why: list[str] = []
    told = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    def on_broken(reason: str) -> None:
        why.append(reason)
        loops[0].call_soon_threadsafe(told.set)

    pool = late_pool(Broken(id), on_broken)

    async def scenario() -> None:
        loops.append(asyncio.get_running_loop())
        await pool.start()
        await asyncio.wait_for(told.wait(), 10)

    run(scenario, pool)

    assert why == ["a model did not survive its warm-up: ValueError('no')"]


def test_a_model_that_is_loaded_later_is_warm_before_it_answers() -> None:
    runner = Watched()
    pool = ModelPool(
        Manifest("/models", [entry("rare", pinned=False)]),
        [SimulatedDevice()],
        SimulatedLoader({"rare": runner}),
        warm_up_first=False,
    )

    async def scenario() -> None:
        await pool.start()
        await pool.detect("rare", [PICTURE])

    run(scenario, pool)

    assert runner.order == ["warm-up", "asked"]
