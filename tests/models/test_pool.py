"""The pool as steps see it, with real networks and with simulated ones."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from consumer.models.batch_info import BatchInfo
from consumer.models.detection import DetectionRunner
from consumer.models.device import Device
from consumer.models.loader import Place
from consumer.models.manifest import Manifest, ModelEntry, load_manifest
from consumer.models.pool import ModelPool
from consumer.models.runner import AnyRunner
from consumer.models.simulated import (
    SimulatedDevice,
    SimulatedLoader,
    SimulatedOutOfMemory,
    SimulatedRunner,
)
from consumer.models.threads import cpu_limit, limit_threads
from consumer.models.torch_device import TorchDevice
from consumer.models.torch_loader import torch_pool
from pipeline_steps.errors import DeviceOverloaded, InvalidInput, ModelMismatch, ModelUnavailable
from pipeline_steps.models import LocalMasks, ModelKind
from tests.models.random_models import ModelFolder, entry, network, photo, sha256, spec

PICTURE = photo(40, 40)


class Stage:
    """A pool of simulated models."""

    def __init__(self, *models: ModelEntry, devices: int = 1, **runners: SimulatedRunner) -> None:
        self.runners = {model.name: SimulatedRunner(id) for model in models} | runners
        self.loader = SimulatedLoader(self.runners)
        self.told: list[BatchInfo] = []
        manifest = Manifest("/models", models)
        found = [SimulatedDevice(f"simulated:{number}") for number in range(devices)]
        self.pool = ModelPool(manifest, found, self.loader, on_batch=self.told.append)


def run(scenario: Callable[[], Coroutine[Any, Any, None]], pool: ModelPool) -> None:
    async def whole() -> None:
        try:
            await scenario()
        finally:
            await pool.close()

    asyncio.run(whole())


def test_pinned_models_are_warm_before_it_is_ready_and_lazy_ones_are_not() -> None:
    stage = Stage(entry("plants"), entry("trays"), entry("rare", pinned=False))

    async def scenario() -> None:
        assert not stage.pool.ready
        await stage.pool.start()
        assert stage.pool.ready
        assert stage.loader.loads == ["plants", "trays"]
        assert stage.runners["plants"].warmed_up == [1, 2, 4, 8]
        assert stage.runners["rare"].warmed_up == []

    run(scenario, stage.pool)
    assert not stage.pool.ready


def test_a_lazy_model_is_loaded_once_however_many_ask() -> None:
    stage = Stage(entry("rare", pinned=False))

    async def scenario() -> None:
        await stage.pool.start()
        await asyncio.gather(*(stage.pool.detect("rare", [PICTURE]) for _ in range(5)))
        assert stage.loader.loads == ["rare"]
        assert stage.runners["rare"].warmed_up == [1, 2, 4, 8]

    run(scenario, stage.pool)


def test_calls_one_after_the_other_build_no_model_again() -> None:
    """Defect 12: tiled detection built its model anew with every call."""
    stage = Stage(entry("plants"), entry("rare", pinned=False), devices=2)

    async def scenario() -> None:
        await stage.pool.start()
        for number in range(4):
            job = stage.pool.for_job(number, "acme")
            await job.detect("plants", [PICTURE] * 3)
            await job.detect("rare", [PICTURE])
        assert stage.loader.loads == ["plants", "rare"]

    run(scenario, stage.pool)


class SlowLoader(SimulatedLoader):
    """Loads a model when it is told to."""

    def __init__(self, runners: Mapping[str, AnyRunner]) -> None:
        super().__init__(runners)
        self.asked = asyncio.Event()
        self.may_load = asyncio.Event()

    async def load(self, model: ModelEntry, devices: int) -> Place:
        if model.name == "slow":
            self.asked.set()
            await self.may_load.wait()
        return await super().load(model, devices)


def test_loading_one_model_does_not_hold_up_another() -> None:
    async def scenario() -> None:
        loader = SlowLoader({"slow": SimulatedRunner(), "plants": SimulatedRunner()})
        manifest = Manifest("/models", [entry("slow", pinned=False), entry("plants")])
        pool = ModelPool(manifest, [SimulatedDevice()], loader)
        await pool.start()
        gives_up = asyncio.create_task(pool.detect("slow", [PICTURE]))
        await loader.asked.wait()
        assert len(await pool.detect("plants", [PICTURE])) == 1

        waits = asyncio.create_task(pool.detect("slow", [PICTURE]))
        gives_up.cancel()
        await asyncio.wait([gives_up])
        loader.may_load.set()

        assert len(await waits) == 1
        assert loader.loads.count("slow") == 1
        await pool.close()

    asyncio.run(scenario())


class FailingLoader(SimulatedLoader):
    """Fails the first time, as a bucket does that is out of reach for a while."""

    async def load(self, model: ModelEntry, devices: int) -> Place:
        place = await super().load(model, devices)
        if len(self.loads) == 1:
            raise ModelUnavailable("out of reach")
        return place


def test_a_lazy_model_that_did_not_load_is_tried_again() -> None:
    pool = ModelPool(
        Manifest("/models", [entry("m", pinned=False)]),
        [SimulatedDevice()],
        FailingLoader({"m": SimulatedRunner()}),
    )

    async def scenario() -> None:
        with pytest.raises(ModelUnavailable, match="out of reach"):
            await pool.detect("m", [PICTURE])
        assert len(await pool.detect("m", [PICTURE])) == 1

    run(scenario, pool)


class Small(SimulatedDevice):
    """Has room for one model."""

    def release_memory(self) -> None:
        super().release_memory()
        self.used = 0


class Heavy(SimulatedLoader):
    """Its models take all the room there is."""

    async def load(self, model: ModelEntry, devices: int) -> Place:
        runner = (await super().load(model, devices))(SimulatedDevice())

        def place(device: Device) -> AnyRunner:
            assert isinstance(device, Small)
            if device.used:
                raise SimulatedOutOfMemory
            device.used = 1
            return runner

        return place


def test_a_lazy_model_takes_the_place_of_one_that_nobody_uses_on_a_full_device() -> None:
    models = [entry(name, pinned=False) for name in ("a", "b")]
    pool = ModelPool(
        Manifest("/models", models), [Small(), Small()], Heavy({name: SimulatedRunner(id) for name in "ab"})
    )

    async def scenario() -> None:
        await pool.start()
        for name in "aba":
            assert len(await pool.detect(name, [PICTURE])) == 1

    run(scenario, pool)


def test_what_did_not_fit_onto_a_device_is_let_go_of() -> None:
    made: list[weakref.ref[SimulatedRunner]] = []

    class TooLarge(SimulatedRunner):
        def warm_up(self) -> None:
            raise SimulatedOutOfMemory

    class Loader(SimulatedLoader):
        async def load(self, model: ModelEntry, devices: int) -> Place:
            def place(device: Device) -> AnyRunner:
                del device
                runner = SimulatedRunner() if len(made) % 2 == 0 else TooLarge()
                made.append(weakref.ref(runner))
                return runner

            return place

    class Collecting(SimulatedDevice):
        """Gives back what nobody holds, as torch's devices do."""

        def release_memory(self) -> None:
            gc.collect()
            alive.append(sum(one() is not None for one in made))

    alive: list[int] = []
    manifest = Manifest("/models", [entry("m", pinned=False)])
    pool = ModelPool(manifest, [Collecting(), Collecting()], Loader({}))

    async def scenario() -> None:
        gc.disable()
        try:
            for _ in range(3):
                with pytest.raises(ModelUnavailable, match="did not survive its warm-up"):
                    await pool.detect("m", [PICTURE])
        finally:
            gc.enable()
        assert (len(made), alive) == (6, [0] * 6)

    run(scenario, pool)


def test_a_failed_warm_up_is_a_failed_start() -> None:
    class Broken(SimulatedRunner):
        def warm_up(self) -> None:
            raise RuntimeError("no kernel image is available")

    stage = Stage(entry("plants"), plants=Broken())

    async def scenario() -> None:
        with pytest.raises(
            ModelUnavailable, match=r"'plants' did not survive its warm-up on simulated:0: .*no kernel"
        ):
            await stage.pool.start()
        assert not stage.pool.ready

    run(scenario, stage.pool)


def test_messages_share_batches_and_take_turns() -> None:
    def numbered(first: int) -> list[Any]:
        return [np.full((1, 1, 3), first + n, np.uint8) for n in range(6)]

    stage = Stage(entry("plants"), plants=SimulatedRunner(lambda item: int(item[0, 0, 0]), largest=4))

    async def scenario() -> None:
        await stage.pool.start()
        acme = stage.pool.for_job("job 1", "acme")
        other = stage.pool.for_job("job 2", "other")
        assert await asyncio.gather(
            acme.detect("plants", numbered(0)), other.detect("plants", numbered(100))
        ) == [list(range(6)), list(range(100, 106))]

    run(scenario, stage.pool)

    seen = [[int(item[0, 0, 0]) for item in batch] for batch in stage.runners["plants"].batches]
    assert seen == [[0, 100, 1, 101], [2, 102, 3, 103], [4, 104, 5, 105]]
    assert [info.size for info in stage.told] == [4, 4, 4]


def test_the_next_two_batches_are_ready_while_one_runs() -> None:
    plants = SimulatedRunner(id, largest=4, costly=True)
    stage = Stage(entry("plants"), plants=plants)

    async def scenario() -> None:
        await stage.pool.start()
        plants.gate.clear()
        jobs = [stage.pool.for_job(number, "acme") for number in range(3)]
        asked = [asyncio.create_task(job.detect("plants", [PICTURE] * 4)) for job in jobs]
        # What waits is prepared, and four are on the device, whose thread takes a moment to begin with them.
        await _until(lambda: stage.pool.waiting() == 8 and len(plants.batches) == 1)
        plants.gate.set()
        await asyncio.gather(*asked)

    run(scenario, stage.pool)

    assert [info.size for info in stage.told] == [4, 4, 4]


def test_preparing_one_tenants_pictures_does_not_hold_up_anothers() -> None:
    held, begun = threading.Event(), threading.Semaphore(0)

    class Slow(SimulatedRunner):
        def prepare(self, item: Any) -> Any:
            if item.shape[0] == 1:
                begun.release()
                assert held.wait(10)
            return item

    stage = Stage(entry("plants"), plants=Slow(lambda _: "found", costly=True))
    large, small = np.zeros((1, 1, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)

    async def scenario() -> None:
        await stage.pool.start()
        acme, other = (stage.pool.for_job(tenant, tenant) for tenant in ("acme", "other"))
        waiting = [asyncio.create_task(acme.detect("plants", [large])) for _ in range(10)]
        assert await asyncio.to_thread(begun.acquire, timeout=10)
        async with asyncio.timeout(10):
            assert await other.detect("plants", [small]) == ["found"]
        assert not any(task.done() for task in waiting)
        held.set()
        await asyncio.gather(*waiting)

    run(scenario, stage.pool)


async def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("costly", [False, True])
def test_each_device_has_every_model_and_the_one_with_least_to_do_is_asked(costly: bool) -> None:
    all_three = threading.Barrier(3, timeout=10)
    plants = SimulatedRunner(lambda _: all_three.wait() >= 0, largest=1, costly=costly)
    stage = Stage(entry("plants"), plants=plants, devices=3)

    async def scenario() -> None:
        await stage.pool.start()
        asked = [stage.pool.detect("plants", [PICTURE]) for _ in range(3)]
        assert await asyncio.gather(*asked) == [[True]] * 3

    run(scenario, stage.pool)


def test_a_tenant_gets_its_own_model() -> None:
    stage = Stage(
        entry("plants", tenants={"acme": "acme_plants"}),
        entry("acme_plants", version="7"),
        plants=SimulatedRunner(lambda _: "everybody's"),
        acme_plants=SimulatedRunner(lambda _: "acme's"),
    )

    async def scenario() -> None:
        await stage.pool.start()
        for tenant, version, answer in (("acme", "7", "acme's"), ("other", "1", "everybody's")):
            models = stage.pool.for_job("job", tenant)
            assert models.spec("plants").version == version
            assert await models.detect("plants", [PICTURE]) == [answer]

    run(scenario, stage.pool)


def test_a_wrong_name_or_kind_is_said() -> None:
    stage = Stage(entry("plants"))

    async def scenario() -> None:
        await stage.pool.start()
        with pytest.raises(ModelUnavailable, match="no model is named 'plant'; did you mean 'plants'"):
            await stage.pool.detect("plant", [PICTURE])
        with pytest.raises(ModelUnavailable, match="known: plants"):
            stage.pool.spec("zebra")
        with pytest.raises(ModelMismatch, match="'plants' is a detection model, not sam"):
            await stage.pool.embed("plants", [PICTURE])

    run(scenario, stage.pool)


def test_what_does_not_fit_into_memory_alone_is_the_callers_to_know() -> None:
    stage = Stage(entry("plants"), plants=SimulatedRunner(memory=0))

    async def scenario() -> None:
        with pytest.raises(DeviceOverloaded, match="'plants'"):
            await stage.pool.detect("plants", [PICTURE])

    run(scenario, stage.pool)


def test_a_closed_pool_answers_nobody() -> None:
    stage = Stage(entry("plants"))

    async def scenario() -> None:
        await stage.pool.start()
        await stage.pool.close()
        with pytest.raises(ModelUnavailable, match="shutting down"):
            await stage.pool.detect("plants", [PICTURE])
        assert stage.pool.busy_for() == 0
        assert stage.pool.waiting() == 0

    run(scenario, stage.pool)


def test_a_folder_of_real_models_answers_every_call(folder: ModelFolder) -> None:
    folder.add("plants", "detection", "fcos_small", classes=2, input_size=128)
    folder.add("sam", "sam", "sam_small")
    folder.add("kinds", "classification", "small_classifier", classes=3, input_size=64)
    folder.add("leaves", "instance", "maskrcnn_small", classes=1, input_size=128, max_batch=1)
    told: list[BatchInfo] = []
    pool = torch_pool(load_manifest(folder.path), ["cpu"], cache=folder.path / "cache", on_batch=told.append)
    pictures = [photo(90, 120, seed) for seed in range(3)]

    async def scenario() -> None:
        await pool.start()
        assert pool.ready
        boxes = await pool.detect("plants", pictures)
        direct = DetectionRunner(
            network("fcos_small", 2).half().float(),  # as the file has it
            spec(ModelKind.DETECTION, classes=2, input_size=128),
            torch.device("cpu"),
            1,
        )
        for picture, found in zip(pictures, boxes, strict=True):
            (expected,) = direct.run([direct.prepare(picture)])
            np.testing.assert_allclose(found.score, expected.score, atol=1e-3)
            np.testing.assert_allclose(found.xyxy[:20], expected.xyxy[:20], atol=1e-2)
        assert [len(found) for found in await pool.classify("kinds", pictures)] == [3, 3, 3]
        assert all(isinstance(found, LocalMasks) for found in await pool.instances("leaves", pictures))

        one, other, _ = await pool.embed("sam", pictures)
        square = np.array([[10, 10, 60, 60], [5, 40, 110, 85]], np.float32)
        masks = await pool.masks_of_boxes("sam", one, square)
        assert len(masks.mask) == len(masks.score) == len(masks.xyxy) == len(masks.label) == 2
        for mask, box in zip(masks.mask, masks.xyxy, strict=True):
            assert box.tolist() == [
                mask.x,
                mask.y,
                mask.x + mask.bits.shape[1],
                mask.y + mask.bits.shape[0],
            ]
        assert len((await pool.masks_of_points("sam", other, square[:, :2])).mask) == 2
        empty = await pool.masks_of_boxes("sam", one, np.zeros((0, 4), np.float32))
        assert (len(empty.mask), empty.xyxy.shape) == (0, (0, 4))
        with pytest.raises(InvalidInput, match=r"expected prompts of \(n, 2\), got \(2, 4\)"):
            await pool.masks_of_points("sam", one, square)
        with pytest.raises(ModelMismatch, match="did not make the embedding"):
            await pool.masks_of_boxes("sam", object(), square)

    run(scenario, pool)
    assert {info.model for info in told} == {"plants", "sam", "kinds", "leaves"}


def test_a_model_with_wrong_weights_is_a_failed_start(folder: ModelFolder) -> None:
    file = folder.add("plants", "detection", "fcos_small", classes=2)
    file.write_bytes(file.read_bytes()[:-1])
    pool = torch_pool(load_manifest(folder.path), ["cpu"], cache=folder.path / "cache")

    async def scenario() -> None:
        with pytest.raises(ModelUnavailable, match=r"plants\.safetensors has sha256"):
            await pool.start()

    run(scenario, pool)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_torchscript_archive_classifies(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    torch.jit.script(plain).save(str(tmp_path / "m.pt"))  # type: ignore[no-untyped-call]
    model = entry("m", kind="torchscript", architecture="", weights="m.pt", classes=("a", "b"))
    model = model.model_copy(update={"sha256": sha256(tmp_path / "m.pt")})
    pool = torch_pool(Manifest(str(tmp_path), [model]), ["cpu"], cache=tmp_path)

    async def scenario() -> None:
        await pool.start()
        (probabilities,) = await pool.classify("m", [PICTURE])
        assert probabilities.shape == (2,)

    run(scenario, pool)


def test_a_kind_nothing_runs_yet_is_a_failed_start(folder: ModelFolder) -> None:
    folder.add("vectors", "embedding", "small_classifier", classes=1)
    folder.models[0]["classes"] = []
    manifest = Manifest(str(folder.path), [ModelEntry.model_validate(folder.models[0])])
    pool = torch_pool(manifest, ["cpu"], cache=folder.path)

    async def scenario() -> None:
        with pytest.raises(ModelUnavailable, match="runs no embedding models"):
            await pool.start()

    run(scenario, pool)


def test_pictures_are_not_kept_once_they_are_answered() -> None:
    class Picture:
        size = 0

    stage = Stage(entry("plants"))
    runner = stage.runners["plants"]

    async def scenario() -> None:
        picture = Picture()
        kept = weakref.ref(picture)
        await stage.pool.detect("plants", [picture])  # type: ignore[list-item]
        runner.batches.clear()
        # One more piece of work, so that the thread has let go of the one before.
        await stage.pool.detect("plants", [PICTURE])
        del picture
        gc.disable()
        try:
            assert kept() is None
        finally:
            gc.enable()

    run(scenario, stage.pool)


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "mps", ""])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ModelUnavailable, match=f"device '{name}'"):
        TorchDevice(name)


def test_the_cpu_knows_when_it_is_out_of_memory() -> None:
    device: Device = TorchDevice("cpu")

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)

    assert device.is_out_of_memory(caught.value)
    assert device.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not device.is_out_of_memory(RuntimeError("shape mismatch"))
    device.release_memory()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_device_whose_thread_ended_is_neither_ready_nor_alive() -> None:
    def broken(info: BatchInfo) -> None:
        raise RuntimeError("a metric that does not exist")

    manifest = Manifest("/models", [entry("plants")])
    pool = ModelPool(
        manifest, [SimulatedDevice()], SimulatedLoader({"plants": SimulatedRunner()}), on_batch=broken
    )

    async def scenario() -> None:
        await pool.start()
        asked = asyncio.create_task(pool.detect("plants", [PICTURE]))
        await asyncio.to_thread(pool._lanes[0].thread._thread.join, 10)
        assert pool.busy_for() == math.inf
        assert not pool.ready
        asked.cancel()

    run(scenario, pool)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "900000 100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({}, 4),
    ],
)
def test_threads_follow_the_containers_share_not_the_nodes_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")

    assert cpu_limit(tmp_path) == cores


@pytest.mark.parametrize(
    ("on_gpu", "cores", "threads"), [(False, 4, 3), (False, 1, 1), (True, 8, 2), (True, 1, 1)]
)
def test_a_core_is_left_to_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, on_gpu: bool, cores: int, threads: int
) -> None:
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)

    limit_threads(on_gpu=on_gpu, cores=cores)

    assert told == [threads]
