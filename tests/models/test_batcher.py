"""Which items share a batch, and what becomes of the others when one of them is bad."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.models.batch_info import BatchInfo, Trigger
from consumer.models.batcher import Batcher, BatchSizeMismatch
from consumer.models.device import DeviceThread
from consumer.models.replies import Call, Request
from consumer.models.simulated import SimulatedBreak, SimulatedDevice, SimulatedRunner
from consumer.models.waiting import Key, Owner, Waiting
from pipeline_steps.errors import DeviceFailed, DeviceOverloaded, ModelUnavailable

FIRST = "the batch that keeps the device busy"


class Bench:
    """A simulated device whose first batch waits until everybody has asked."""

    def __init__(self, **runner: Any) -> None:
        self.device = SimulatedDevice()
        self.thread = DeviceThread(self.device)
        self.told: list[BatchInfo] = []
        self.now = 1000.0
        self.broken: list[str] = []
        self.room: list[bool] = []
        """Whether there is something to give up, each time that memory runs out."""
        self.batcher = Batcher(
            self.thread,
            on_batch=self.told.append,
            on_broken=self.broken.append,
            make_room=lambda: bool(self.room) and self.room.pop(0),
            clock=lambda: self.now,
        )
        self.runner = SimulatedRunner(**runner)

    async def ask(self, items: list[Any], job: str | None = None, tenant: str = "acme") -> list[Any]:
        return await self.batcher.submit("m", self.runner, items, owner=Owner(tenant, job))

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """While inside, the device is busy with a batch of its own, and everything asked piles up."""
        self.runner.gate.clear()
        first = asyncio.create_task(self.ask([FIRST]))
        assert await asyncio.to_thread(self.runner.started.wait, 10)
        yield
        self.runner.gate.set()
        await first

    @property
    def batches(self) -> list[list[Any]]:
        """What ran after the first."""
        return self.runner.batches[1:]


def run(scenario: Callable[[Bench], Coroutine[Any, Any, None]], **runner: Any) -> Bench:
    bench = Bench(**runner)
    asyncio.run(scenario(bench))
    assert bench.thread.close(timeout=10)
    return bench


async def settled(*calls: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Start the calls and let each reach the queue, in order."""
    tasks = []
    for call in calls:
        tasks.append(asyncio.create_task(call))
        await asyncio.sleep(0)
    return tasks


def test_answers_come_back_in_the_order_of_the_items() -> None:
    async def scenario(bench: Bench) -> None:
        assert await bench.ask(list(range(20))) == [item * 10 for item in range(20)]
        assert await bench.ask([]) == []

    run(scenario, answer=lambda item: item * 10, largest=3)


def test_a_free_device_takes_all_that_waits_and_waits_for_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.busy():
            tasks = await settled(*(bench.ask([n]) for n in range(5)))
        assert await asyncio.gather(*tasks) == [[n] for n in range(5)]

    bench = run(scenario, largest=8)

    assert bench.batches == [[0, 1, 2, 3, 4]]
    assert [(info.model, info.size, info.trigger) for info in bench.told] == [
        ("m", 1, Trigger.FREE),
        ("m", 5, Trigger.FREE),
    ]
    assert all(info.seconds >= 0 and min(info.waits) >= 0 for info in bench.told)


def test_callers_answered_together_share_their_next_batch_too() -> None:
    async def client(bench: Bench) -> None:
        for question in range(3):
            await bench.ask([question])

    async def scenario(bench: Bench) -> None:
        await asyncio.gather(*(client(bench) for _ in range(8)))

    assert run(scenario, largest=8).runner.batches == [[0] * 8, [1] * 8, [2] * 8]


def test_only_items_of_one_bucket_share_a_batch() -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.busy():
            (task,) = await settled(bench.ask([1, 10, 2, 20, 3]))
        assert await task == [1, 10, 2, 20, 3]

    bench = run(scenario, bucket=lambda item: len(str(item)))

    assert bench.batches == [[1, 2, 3], [10, 20]]


def test_no_batch_is_larger_than_the_model_allows() -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.busy():
            (task,) = await settled(bench.ask(list(range(10))))
        await task

    bench = run(scenario, largest=4)

    assert [len(batch) for batch in bench.batches] == [4, 4, 2]
    assert [info.trigger for info in bench.told[1:]] == [Trigger.FULL, Trigger.FULL, Trigger.FREE]


def test_a_photo_of_a_hundred_tiles_does_not_starve_a_photo_of_one() -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.busy():
            tasks = await settled(bench.ask([f"a{n}" for n in range(100)], "a"), bench.ask(["b0"], "b"))
        await asyncio.gather(*tasks)

    assert "b0" in run(scenario, largest=4).batches[0]


def test_a_tenant_of_a_hundred_photos_shares_every_batch_with_a_tenant_of_one() -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.busy():
            many = [bench.ask([f"a{n}"], f"job {n}") for n in range(100)]
            tasks = await settled(*many, bench.ask(["b0", "b1"], "job", tenant="other"))
        await asyncio.gather(*tasks)

    first = run(scenario, largest=4).batches[0]
    assert {"b0", "b1"} <= set(first)


@given(
    jobs=st.lists(
        st.tuples(st.sampled_from("xyz"), st.integers(0, 3), st.integers(1, 30)), min_size=1, max_size=10
    ),
    largest=st.integers(1, 8),
)
@settings(deadline=None, max_examples=50)
def test_who_had_the_least_of_the_device_is_in_the_next_batch(
    jobs: list[tuple[str, int, int]], largest: int
) -> None:
    waiting, left = Waiting(), Counter[Hashable]()
    runner = SimulatedRunner(largest=largest)

    async def scenario() -> None:
        for tenant, shape, count in jobs:
            for position in range(count):
                request = Request(Call(1), position, None, 0.0)
                waiting.add(Key("m", shape), runner, Owner(tenant, None), request)
                left[tenant] += 1
        had = Counter[Hashable]()
        while following := waiting.next_key():
            taken = waiting.take(following[0], largest)
            tenants = [tenant for tenant, _ in taken]
            least = min(had[tenant] for tenant in left if left[tenant])
            assert least in [had[tenant] for tenant in tenants]
            waiting.charge(following[0], tenants, float(len(taken)))
            had.update(tenants)
            left.subtract(tenants)
        assert not len(waiting)
        assert not +left

    asyncio.run(scenario())


@given(
    share=st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0, 7.5]),
    largest=st.integers(1, 8),
    shapes=st.integers(1, 2),
)
@settings(deadline=None, max_examples=50)
def test_tenants_that_wait_all_the_time_get_their_shares_of_the_device(
    share: float, largest: int, shapes: int
) -> None:
    waiting, runner = Waiting({"acme": share}), SimulatedRunner(largest=largest)
    had = Counter[Hashable]()

    async def scenario() -> None:
        for tenant in ("acme", "other"):
            for position in range(1000):
                key = Key("m", position % shapes)
                waiting.add(key, runner, Owner(tenant, None), Request(Call(1), position, None, 0.0))
        while had.total() < 500:
            following = waiting.next_key()
            assert following
            tenants = [tenant for tenant, _ in waiting.take(following[0], largest)]
            waiting.charge(following[0], tenants, float(len(tenants)))
            had.update(tenants)

    asyncio.run(scenario())

    # Nobody is further behind than what one batch gives, and its share.
    assert abs(had["acme"] / share - had["other"]) <= largest * (1 + 1 / share)


def test_a_share_that_is_not_used_goes_to_the_others() -> None:
    async def scenario() -> None:
        waiting, runner = Waiting({"acme": 100.0}), SimulatedRunner()
        for position in range(3):
            waiting.add(Key("m", None), runner, Owner("other", None), Request(Call(1), position, None, 0.0))
        assert [tenant for tenant, _ in waiting.take(Key("m", None), 8)] == ["other"] * 3

    asyncio.run(scenario())


def test_a_tenant_that_comes_back_does_not_get_the_time_it_did_not_use() -> None:
    async def scenario() -> None:
        waiting, runner = Waiting(), SimulatedRunner()

        def ask(tenant: str) -> None:
            waiting.add(Key("m", None), runner, Owner(tenant, None), Request(Call(1), 0, None, 0.0))

        def serve() -> Hashable:
            [(tenant, _)] = waiting.take(Key("m", None), 1) if waiting.next_key() else []
            waiting.charge(Key("m", None), [tenant], 1.0)
            return tenant

        for _ in range(10):
            ask("busy")
            assert serve() == "busy"
        for tenant in ["busy", "idle"] * 4:
            ask(tenant)
        served = [serve() for _ in range(8)]
        assert served == ["idle", "busy"] * 4 or served == ["busy", "idle"] * 4

    asyncio.run(scenario())


def test_a_bucket_with_much_to_do_does_not_starve_the_others() -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.busy():
            tasks = await settled(bench.ask(["big"] * 50, "a"), bench.ask(["s"] * 2, "b"))
        await asyncio.gather(*tasks)

    assert run(scenario, largest=4, bucket=len).batches[1] == ["s", "s"]


@given(
    jobs=st.dictionaries(st.text("abcdef", min_size=1, max_size=1), st.integers(1, 40), min_size=1),
    largest=st.integers(1, 16),
)
@settings(deadline=None, max_examples=50)
def test_jobs_share_every_batch_evenly_and_keep_their_order(jobs: dict[str, int], largest: int) -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.busy():
            tasks = await settled(
                *(bench.ask([(job, n) for n in range(size)], job) for job, size in jobs.items())
            )
        for task, (job, size) in zip(tasks, jobs.items(), strict=True):
            assert await task == [(job, n) for n in range(size)]

    bench = run(scenario, largest=largest)

    left = dict(jobs)
    served = dict.fromkeys(jobs, 0)
    for batch in bench.batches:
        waiting = sum(left.values())
        assert len(batch) == min(largest, waiting)
        for job, n in batch:
            assert n == jobs[job] - left[job]
            left[job] -= 1
            served[job] += 1
        if unfinished := [served[job] for job in jobs if left[job]]:
            assert max(unfinished) - min(unfinished) <= 1
    assert not any(left.values())


def test_who_gives_up_does_not_reach_the_device() -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.busy():
            gone, stays = await settled(bench.ask(["gone"] * 5), bench.ask(["stays"]))
            gone.cancel()
        assert await stays == ["stays"]
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert bench.batcher.waiting() == 0

    assert run(scenario).batches == [["stays"]]


def test_a_bad_item_fails_alone_with_its_own_error() -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.busy():
            tasks = await settled(*(bench.ask([n]) for n in range(8)))
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [repr(a) for a in answers if isinstance(a, Exception)] == [
            "ValueError('3 is bad')",
            "ValueError('6 is bad')",
        ]
        assert [a for a in answers if isinstance(a, list)] == [[0], [1], [2], [4], [5], [7]]

    bench = run(scenario, bad={3, 6}, largest=8)

    assert bench.batches[:3] == [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3], [0, 1]]
    assert {info.trigger for info in bench.told[2:]} == {Trigger.SPLIT}


def test_a_bad_item_fails_its_whole_call_and_spares_the_device_the_rest() -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.busy():
            (task,) = await settled(bench.ask([0, *range(1, 100)]))
        with pytest.raises(ValueError, match="0 is bad"):
            await task

    bench = run(scenario, bad={0}, largest=1)

    assert bench.batches == [[0]]


def test_an_iterator_that_ran_dry_inside_a_model_is_an_error_not_a_hang() -> None:
    def dry(item: Any) -> Any:
        return next(iter(()))

    async def scenario(bench: Bench) -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await bench.ask([1])

    run(scenario, answer=dry)


def test_a_model_must_answer_every_item() -> None:
    class Forgetful(SimulatedRunner):
        def run(self, batch: Any) -> list[Any]:
            return super().run(batch)[1:]

    async def scenario(bench: Bench) -> None:
        bench.runner = Forgetful()
        with pytest.raises(BatchSizeMismatch, match="gave 0 answers to 1 items"):
            await bench.ask([1, 2])

    run(scenario)


def test_what_does_not_fit_is_halved_and_the_size_that_fits_is_remembered() -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.busy():
            (task,) = await settled(bench.ask(list(range(8))))
        assert await task == list(range(8))
        assert await bench.ask(list(range(8))) == list(range(8))

    bench = run(scenario, memory=3, largest=8)

    assert [len(batch) for batch in bench.batches] == [8, 4, 2, 2, 4, 2, 2, 2, 2, 2, 2]
    assert bench.device.released == 3


def test_what_does_not_fit_is_tried_again_as_it_is_where_something_was_given_up_for_it() -> None:
    async def scenario(bench: Bench) -> None:
        bench.room = [True, False]
        assert await bench.ask(list(range(8))) == list(range(8))

    bench = run(scenario, memory=4, largest=8)

    assert [len(batch) for batch in bench.runner.batches] == [8, 8, 4, 4]
    assert bench.device.released == 2


def test_after_a_while_a_larger_batch_is_tried_again() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.ask(list(range(8)))
        bench.runner.memory = None
        for _ in range(3):
            await bench.ask(list(range(8)))
            bench.now += 301

    bench = run(scenario, memory=3, largest=8)

    sizes = [len(batch) for batch in bench.runner.batches]
    assert sizes == [8, 4, 2, 2, 4, 2, 2, *[2, 2, 2, 2], *[4, 4], 8]


def test_a_broken_device_fails_its_batch_and_is_tried_no_more() -> None:
    class Breaking(SimulatedRunner):
        def run(self, batch: Any) -> list[Any]:
            super().run(batch)
            if FIRST in batch:
                return batch
            raise SimulatedBreak("illegal memory access")

    async def scenario(bench: Bench) -> None:
        bench.runner = Breaking(largest=2)
        async with bench.busy():
            guilty, waiting = await settled(bench.ask([1, 2]), bench.ask(["x", "y"], tenant="other"))
        told = await asyncio.gather(guilty, waiting, return_exceptions=True)
        assert isinstance(told[0], DeviceFailed)
        assert "illegal memory access" in str(told[0])
        assert isinstance(told[1], DeviceFailed)  # its first item shared the batch
        with pytest.raises(ModelUnavailable, match="simulated is broken"):
            await bench.ask([3])

    bench = run(scenario)
    assert bench.broken == ["simulated is broken: illegal memory access"]
    assert len(bench.runner.batches) == 2


def test_an_item_that_does_not_fit_alone_fails_and_the_others_do_not() -> None:
    class Heavy(SimulatedRunner):
        def run(self, batch: Any) -> list[Any]:
            self.memory = 0 if "heavy" in batch else 8
            return super().run(batch)

    async def scenario(bench: Bench) -> None:
        bench.runner = Heavy()
        async with bench.busy():
            light, heavy, other = await settled(bench.ask(["l"]), bench.ask(["heavy"]), bench.ask(["o"]))
        assert await light == ["l"]
        assert await other == ["o"]
        with pytest.raises(DeviceOverloaded, match="model 'm': simulated has not enough memory for one item"):
            await heavy

    run(scenario)


def test_a_failed_batch_keeps_nothing_alive() -> None:
    class Tensor:
        pass

    kept: list[weakref.ref[Tensor]] = []

    class Failing(SimulatedRunner):
        def run(self, batch: Any) -> list[Any]:
            tensor = Tensor()
            kept.append(weakref.ref(tensor))
            raise ValueError("bad")

    async def scenario(bench: Bench) -> None:
        bench.runner = Failing()
        gc.disable()  # what lives until the collector comes would be too late on a full device
        try:
            with pytest.raises(ValueError, match="bad") as caught:
                await bench.ask([1, 2])
            assert caught.value is not None
            assert [ref() for ref in kept] == [None] * len(kept)
        finally:
            gc.enable()

    run(scenario)


def test_a_hanging_device_shows_in_how_long_it_is_busy() -> None:
    now = [100.0]
    thread = DeviceThread(SimulatedDevice(), clock=lambda: now[0])
    runner = SimulatedRunner()

    async def scenario() -> None:
        batcher = Batcher(thread)
        assert thread.busy_for() == 0
        runner.gate.clear()
        task = asyncio.create_task(batcher.submit("m", runner, [1]))
        assert await asyncio.to_thread(runner.started.wait, 10)
        now[0] = 190.0
        assert thread.busy_for() == 90
        assert not thread.close(timeout=0)
        runner.gate.set()
        assert await task == [1]

    asyncio.run(scenario())
    assert thread.close(timeout=10)
    assert thread.busy_for() == 0


def test_closing_tells_those_who_wait() -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.busy():
            (task,) = await settled(bench.ask([1]))
            bench.batcher.close()
            with pytest.raises(ModelUnavailable, match="shutting down"):
                await task
        with pytest.raises(ModelUnavailable, match="shutting down"):
            await bench.ask([2])

    assert run(scenario).batches == []


def test_a_device_serves_other_work_between_batches() -> None:
    async def scenario(bench: Bench) -> None:
        async with bench.busy():
            (task,) = await settled(bench.ask(["x"] * 4))
            seen = bench.thread.call(lambda: len(bench.runner.batches))
        assert await asyncio.wrap_future(seen) < 5
        await task
        failing = bench.thread.call(lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wrap_future(failing)
        assert bench.thread.alive

    run(scenario, largest=1)
