"""Embeddings that jobs leave to each other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumer.local.scenes import demo_photo
from consumer.models.batch_info import BatchInfo
from consumer.models.embeddings import KeptEmbeddings
from consumer.models.manifest import Manifest, ModelEntry, load_manifest
from consumer.models.pool import ModelPool
from consumer.models.runner import MaskFound, Prompt
from consumer.models.simulated import SimulatedDevice, SimulatedLoader, SimulatedOutOfMemory, SimulatedRunner
from consumer.models.torch_loader import torch_pool
from pipeline_steps.artifacts import Mask, Pixels
from pipeline_steps.errors import NotANumber
from tests.models.random_models import entry as any_entry
from tests.models.random_models import photo
from tests.models.sams import runner, sam

PICTURE = photo(20, 30)
BOX = np.array([[2, 3, 9, 8]], np.float32)


@dataclass(frozen=True, eq=False)
class Seen:
    maker: object
    nbytes: int = 100


class Eye(SimulatedRunner):
    """A `sam` model that sees nothing, and takes 100 bytes for each picture."""

    def __init__(self, **how: Any) -> None:
        super().__init__(self._see, **how)

    def _see(self, item: Any) -> Any:
        if isinstance(item, Prompt):
            assert item.embedding.maker is self  # type: ignore[attr-defined]
            return MaskFound(Mask(np.ones((1, 1), np.bool_), 0, 0), 0.9)
        return Seen(self)

    def digest(self, ready: Any) -> bytes | None:
        return None if isinstance(ready, Prompt) else f"{ready.shape}{ready.tobytes()!r}".encode()

    @property
    def embedded(self) -> int:
        """How many pictures it was shown."""
        return sum(not isinstance(item, Prompt) for batch in self.batches for item in batch)


def entry(name: str, *, pinned: bool = True) -> ModelEntry:
    return any_entry(name, kind="sam", classes=(), pinned=pinned)


class Stage:
    """A pool of such models."""

    def __init__(self, most: int = 1000, **eyes: Eye) -> None:
        self.eyes = {"sam": Eye(), "other": Eye()} | eyes
        self.device = SimulatedDevice()
        self.pool = ModelPool(
            Manifest("/models", [entry(name) for name in self.eyes]),
            [self.device],
            SimulatedLoader(self.eyes),
            embedding_memory=most,
        )

    @property
    def embedded(self) -> int:
        return sum(eye.embedded for eye in self.eyes.values())

    async def ask(self, job: str, picture: Pixels = PICTURE, tenant: str = "acme", model: str = "sam") -> Any:
        """Embed a copy of the picture for a job of its own, and ask about it."""
        models = self.pool.for_job(job, tenant)
        (embedding,) = await models.embed(model, [picture.copy()])
        assert len((await models.masks_of_boxes(model, embedding, BOX)).mask) == 1
        return embedding

    async def ask_at_once(self, jobs: int) -> list[Any]:
        """As `ask`, for so many jobs that come before the first is answered."""
        eye = self.eyes["sam"]
        eye.gate.clear()
        asking = [asyncio.create_task(self.ask(f"job {number}")) for number in range(jobs)]
        assert await asyncio.to_thread(eye.started.wait, 10)
        eye.gate.set()
        return await asyncio.gather(*asking)


def play(stage: Stage, story: Coroutine[Any, Any, None]) -> None:
    async def whole() -> None:
        await stage.pool.start()
        try:
            await story
        finally:
            await stage.pool.close()

    asyncio.run(asyncio.wait_for(whole(), 30))


def test_another_job_about_the_same_pixels_finds_what_the_first_one_left() -> None:
    stage = Stage()

    async def story() -> None:
        assert await stage.ask("one") is await stage.ask("two")
        assert stage.embedded == 1

    play(stage, story())


@pytest.mark.parametrize(
    "other",
    [{"tenant": "zoo"}, {"model": "other"}, {"picture": photo(20, 30, 1)}, {"picture": photo(30, 20)}],
    ids=["tenant", "model", "pixels", "size"],
)
def test_another_tenant_model_or_picture_does_not(other: dict[str, Any]) -> None:
    stage = Stage()

    async def story() -> None:
        assert await stage.ask("one") is not await stage.ask("two", **other)
        assert stage.embedded == 2

    play(stage, story())


def test_none_are_kept_where_there_is_no_memory_for_them() -> None:
    stage = Stage(most=0)

    async def story() -> None:
        await stage.ask("one")
        await stage.ask("two")
        assert stage.embedded == 2

    play(stage, story())


def test_the_oldest_go_when_they_take_too_much() -> None:
    stage, pictures = Stage(most=250), [photo(20, 30, seed) for seed in range(3)]

    async def story() -> None:
        for number in (0, 1, 0, 2, 0):  # the second is the oldest when the third comes
            await stage.ask(f"job {number}", pictures[number])
        assert stage.embedded == 3
        await stage.ask("again", pictures[1])
        assert stage.embedded == 4

    play(stage, story())


def test_jobs_at_the_same_time_wait_for_the_first() -> None:
    stage = Stage()

    async def story() -> None:
        assert len({id(one) for one in await stage.ask_at_once(5)}) == 1
        assert stage.embedded == 1

    play(stage, story())


def test_a_job_that_is_cancelled_leaves_the_work_to_one_that_waits() -> None:
    stage = Stage()
    eye = stage.eyes["sam"]

    async def story() -> None:
        eye.gate.clear()
        first = asyncio.create_task(stage.ask("one"))
        assert await asyncio.to_thread(eye.started.wait, 10)
        second = asyncio.create_task(stage.ask("two"))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        eye.gate.set()
        assert (await second).maker is eye
        assert first.cancelled()

    play(stage, story())


def test_what_fails_for_one_job_is_tried_by_the_next() -> None:
    stage = Stage(sam=Eye(memory=0))
    eye = stage.eyes["sam"]

    async def story() -> None:
        with pytest.raises(Exception, match="not enough memory"):
            await stage.ask("one")
        eye.memory = None
        assert (await stage.ask("two")).maker is eye

    play(stage, story())


def test_a_device_that_is_full_gets_their_memory_back_and_tries_again() -> None:
    class Full(Eye):
        """There is memory for a batch as long as nothing is kept."""

        def run(self, batch: Any) -> list[Any]:
            if stage.pool._kept._recent._kept:
                raise SimulatedOutOfMemory("full")
            return super().run(batch)

    stage = Stage(sam=Full())

    async def story() -> None:
        models = stage.pool.for_job("one", "acme")
        await models.embed("sam", [PICTURE])
        await models.embed("sam", [photo(20, 30, seed) for seed in (5, 6)])
        assert [len(batch) for batch in stage.eyes["sam"].batches] == [1, 2]
        await models.embed("sam", [PICTURE.copy()])
        assert stage.embedded == 4

    play(stage, story())


def test_they_make_room_for_a_model_before_it_is_loaded() -> None:
    stage = Stage()
    stage.pool = ModelPool(
        Manifest("/models", [entry("sam"), entry("other", pinned=False)]),
        [stage.device],
        SimulatedLoader(stage.eyes),
        embedding_memory=1000,
    )
    kept: list[bool] = []
    stage.eyes["other"].warm_up = lambda: kept.append(  # type: ignore[method-assign]
        bool(stage.pool._kept._recent._kept)
    )

    async def story() -> None:
        await stage.ask("one")
        await stage.ask("two", model="other")
        assert kept == [False]

    play(stage, story())


def test_each_device_is_asked_about_what_it_saw_itself() -> None:
    class Place(SimulatedLoader):
        async def load(self, model: ModelEntry, devices: int) -> Any:
            del model, devices
            return lambda device: eyes[device.name]

    eyes = {"a": Eye(), "b": Eye()}
    pool = ModelPool(
        Manifest("/models", [entry("sam")]),
        [SimulatedDevice(name) for name in eyes],
        Place({}),
        embedding_memory=1000,
    )
    pictures = [photo(20, 30, seed) for seed in range(6)]

    async def ask(job: str, picture: Pixels) -> None:
        models = pool.for_job(job, "acme")
        (embedding,) = await models.embed("sam", [picture.copy()])
        await models.masks_of_boxes("sam", embedding, BOX)

    async def story() -> None:
        await pool.start()
        try:
            for name in ("one", "two"):
                await asyncio.gather(*(ask(f"{name} {i}", each) for i, each in enumerate(pictures)))
            assert eyes["a"].embedded + eyes["b"].embedded == 6
            assert min(eyes["a"].embedded, eyes["b"].embedded) > 0
            assert pool.embeddings_found() == 6
        finally:
            await pool.close()

    asyncio.run(story())


def test_whoever_waits_has_what_was_made_though_there_is_no_room_to_keep_it() -> None:
    stage = Stage(most=10)

    async def story() -> None:
        await stage.ask_at_once(5)
        assert stage.embedded == 1
        await stage.ask("later")
        assert stage.embedded == 2

    play(stage, story())


def test_all_who_waited_for_what_failed_try_it_in_one_batch() -> None:
    stage = Stage(sam=Eye(bad=[], costly=False))
    eye = stage.eyes["sam"]
    fails = [True]

    def see(item: Any) -> Any:
        if fails and fails.pop():
            raise ValueError("once")
        return Seen(eye)

    eye._answer = see

    async def story() -> None:
        eye.gate.clear()
        models = [stage.pool.for_job(number, "acme") for number in range(5)]
        asking = [asyncio.create_task(each.embed("sam", [PICTURE.copy()])) for each in models]
        assert await asyncio.to_thread(eye.started.wait, 10)
        eye.gate.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(each) for each in answers].count(ValueError) == 1
        assert [len(batch) for batch in eye.batches] == [1, 4]

    play(stage, story())


def test_clearing_them_from_a_devices_thread_disturbs_nobody() -> None:
    kept, stop = KeptEmbeddings(10_000), threading.Event()

    def clear() -> None:
        while not stop.is_set():
            kept.clear()

    async def story() -> None:
        async def embed(items: Any) -> list[Any]:
            return [Seen(None) for _ in items]

        for number in range(3000):
            digests = [b"%d" % (number % 7), b"x"]
            assert len(await kept.of("acme", "sam", digests, digests, embed)) == 2

    thread = threading.Thread(target=clear)
    thread.start()
    try:
        asyncio.run(story())
    finally:
        stop.set()
        thread.join()


def test_an_embedding_that_is_no_number_is_not_kept() -> None:
    network = sam("shipped")
    model = runner(network)
    ready = model.prepare(photo(64, 96))
    weight = next(network.image_encoder.parameters())
    before = weight.detach().clone()
    weight.data.fill_(float("nan"))

    with pytest.raises(NotANumber, match="answered what is no number"):
        model.run([ready])
    weight.data.copy_(before)
    assert len(model.run([ready])) == 1


def test_a_model_that_was_unloaded_is_not_asked_about_what_it_saw() -> None:
    stage = Stage()
    # Each takes all there is, and goes for the other.
    stage.pool = ModelPool(
        Manifest("/models", [entry(name, pinned=False) for name in stage.eyes]),
        [stage.device],
        SimulatedLoader(stage.eyes),
        memory=10,
        embedding_memory=1000,
    )
    for eye in stage.eyes.values():

        def warm_up() -> None:
            stage.device.used += 10

        eye.warm_up = warm_up  # type: ignore[method-assign]

    async def story() -> None:
        for job, model in enumerate(["sam", "other", "sam"]):
            async with stage.pool.holding([model], "acme"):
                await stage.ask(f"job {job}", model=model)
        assert stage.eyes["sam"].embedded == 2

    play(stage, story())


def test_sams_own_digest_is_of_what_it_sees_and_of_the_size_it_answers_in() -> None:
    model = runner(sam("shipped"))
    whole = photo(64, 96)

    def digest(pixels: Pixels) -> bytes | None:
        return model.digest(model.prepare(pixels))

    assert digest(whole) == digest(whole.copy())
    assert len({digest(one) for one in (whole, whole[::-1].copy(), whole.transpose(1, 0, 2).copy())}) == 3
    # Both are one colour to the encoder, and not of one size.
    small, large = (np.full((side, side, 3), 90, np.uint8) for side in (100, 300))
    assert digest(small) != digest(large)
    (embedding,) = model.run([model.prepare(whole)])
    assert model.digest(Prompt(embedding, BOX[0])) is None
    assert embedding.nbytes > 64 * 64 * 4


def test_masks_of_a_picture_that_comes_again_are_the_same_and_it_is_encoded_once(tmp_path: Path) -> None:
    ran: list[BatchInfo] = []
    pool = torch_pool(
        Manifest(
            "consumer/local/models",
            [load_manifest(Path("consumer/local/models")).models["sam"]],
        ),
        ["cpu"],
        cache=tmp_path,
        on_batch=ran.append,
        embedding_memory=64 << 20,
    )
    pixels, boxes = demo_photo(4, 240, 320).pixels, np.array([[20, 30, 120, 140]], np.float32)

    async def masks(job: str) -> Any:
        models = pool.for_job(job, "acme")
        (embedding,) = await models.embed("sam", [pixels.copy()])
        return await models.masks_of_boxes("sam", embedding, boxes)

    async def story() -> None:
        await pool.start()
        try:
            first, second = [await masks(job) for job in ("one", "two")]
        finally:
            await pool.close()
        assert first.mask == second.mask
        assert first.mask[0].area > 0

    asyncio.run(story())
    assert sum(batch.size for batch in ran if batch.bucket == "pictures") == 1
