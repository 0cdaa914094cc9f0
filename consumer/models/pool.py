"""The warm models: `Models` as steps see it, answered in batches that many messages share."""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import AbstractAsyncContextManager
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

from consumer.models.batch_info import BatchInfo
from consumer.models.batcher import NOBODY, Batcher
from consumer.models.calls import ModelCalls
from consumer.models.device import Device, DeviceThread
from consumer.models.embeddings import KeptEmbeddings
from consumer.models.finite import require_numbers
from consumer.models.loader import Loader, Place
from consumer.models.manifest import Manifest, ModelEntry
from consumer.models.preparing import Preparers
from consumer.models.residency import DeviceFull, Residency
from consumer.models.runner import AnyRunner, Prompt
from consumer.models.waiting import EVEN, Owner, Shares
from consumer.ops.tracing import span
from pipeline_steps.errors import ModelMismatch, ModelUnavailable
from pipeline_steps.models import ModelKind, Models, ModelSpec

_CLOSE_SECONDS = 10.0


class _Lane(NamedTuple):
    """A device, its thread, and the batches that wait for it."""

    thread: DeviceThread
    batcher: Batcher


class _Replica(NamedTuple):
    """A model on one device."""

    runner: AnyRunner
    lane: _Lane


class ModelPool(ModelCalls):
    """All models of a manifest: the pinned ones warm, the others loaded when first asked for.

    It is itself a `Models`, for callers without a job; `for_job` gives each job its own.

    Args:
        manifest: which models there are.
        devices: where they run; each has every model, and what is asked goes to the one with least to do.
        loader: how they are read.
        on_batch: told of every batch that ran, on the device's thread: quick, and raises nothing.
        on_broken: told, on the device's thread, why a device answers nobody any more.
        memory: bytes that each device may hold for models; lazy ones make room for each other.
        warm_up_first: whether the pinned models are warm before it is ready; otherwise what is asked first
            waits for that, and what they take is measured without it.
        shares: of each device's time, by tenant.
        embedding_memory: bytes that embeddings may take which jobs leave to each other.
    """

    def __init__(
        self,
        manifest: Manifest,
        devices: Sequence[Device],
        loader: Loader,
        *,
        on_batch: Callable[[BatchInfo], None] = lambda _: None,
        on_broken: Callable[[str], None] = lambda _: None,
        memory: int | None = None,
        warm_up_first: bool = True,
        shares: Shares = EVEN,
        embedding_memory: int = 0,
    ) -> None:
        self._manifest = manifest
        self._kept = KeptEmbeddings(embedding_memory)
        self._loader = loader
        self._on_broken = on_broken
        self._warm_up_first = warm_up_first
        threads = [DeviceThread(device) for device in devices]
        self._lanes = tuple(
            _Lane(
                thread,
                Batcher(
                    thread,
                    on_batch=on_batch,
                    on_broken=on_broken,
                    make_room=self._kept.clear,
                    shares=shares,
                ),
            )
            for thread in threads
        )
        self._preparers = Preparers(with_digests=embedding_memory > 0)
        self._replicas: dict[str, tuple[_Replica, ...]] = {}
        self._residency = Residency(memory, self._load, self._unload)
        self._started = False
        self._closed = False

    async def start(self) -> None:
        """Load all pinned models, and run a real forward of every batch size, now or right afterwards.

        Raises:
            ModelUnavailable: one of them does not load, or does not survive it.
        """
        for name, model in self._manifest.models.items():
            if model.pinned:
                await self._residency.pin(name)
        self._started = True
        if not self._warm_up_first:
            for replica in (one for replicas in self._replicas.values() for one in replicas):
                replica.lane.thread.post(partial(self._warm_up_late, replica))

    def _warm_up_late(self, replica: _Replica) -> None:
        try:
            replica.runner.warm_up()
        except Exception as error:  # noqa: BLE001  whatever it is, this model answers nobody
            self._on_broken(f"a model did not survive its warm-up: {error!r}")

    @property
    def ready(self) -> bool:
        """Whether every pinned model is loaded, or also warm, and every device takes work."""
        return self._started and not self._closed and all(lane.thread.alive for lane in self._lanes)

    def busy_for(self) -> float:
        """Return for how many seconds the longest running batch has been on its device, for liveness.

        Infinitely long, where a device's thread has ended by an error of ours: it will never answer again.
        """
        if not self._closed and not all(lane.thread.alive for lane in self._lanes):
            return math.inf
        return max(lane.thread.busy_for() for lane in self._lanes)

    @property
    def devices(self) -> int:
        """How many devices take work."""
        return sum(lane.thread.alive for lane in self._lanes)

    def embeddings_found(self) -> int:
        """Return how often a picture had been embedded for another job already."""
        return self._kept.found

    def waiting(self) -> int:
        """Return how many items wait for a device."""
        return sum(lane.batcher.waiting() for lane in self._lanes)

    async def close(self) -> None:
        """Stop the devices. Whoever still waits gets `ModelUnavailable`."""
        self._closed = True
        for lane in self._lanes:
            lane.batcher.close()
        self._preparers.close()
        for lane in self._lanes:
            await asyncio.to_thread(lane.thread.close, _CLOSE_SECONDS)

    def for_job(self, job: Hashable, tenant_id: str) -> Models:
        """Return the models as one job sees them.

        Args:
            job: its items take turns with those of the tenant's other jobs.
            tenant_id: has its share of the devices, and gets the models the manifest has for it.
        """
        return _JobModels(self, self._manifest, job, tenant_id)

    def holding(self, names: Collection[str], tenant_id: str) -> AbstractAsyncContextManager[None]:
        """Have these models loaded while the context lasts, as a tenant gets them.

        Raises:
            ModelUnavailable: one of them does not load, or they do not fit together.
        """
        return self._residency.holding([self._manifest.for_tenant(name, tenant_id) for name in names])

    def spec(self, name: str) -> ModelSpec:
        """Return what the manifest says of the model."""
        return self._entry(name).spec

    async def _ask(self, name: str, kinds: Sequence[ModelKind], items: Sequence[Any]) -> list[Any]:
        return await self.ask(name, kinds, items)

    async def ask(
        self, name: str, kinds: Sequence[ModelKind], items: Sequence[Any], owner: Owner = NOBODY
    ) -> list[Any]:
        """Return the model's answer to each item, in order; what all calls of `Models` are made of.

        Args:
            name: the model.
            kinds: what it may be.
            items: pictures, or for a `sam` model prompts.
            owner: whom they are for.

        Raises:
            ModelUnavailable: no such model, it does not load, or the pool was closed.
            ModelMismatch: it is of another kind, or did not make the embedding that is asked about.
            DeviceOverloaded: an item does not fit into memory even alone.
            DeviceFailed: the device broke while it had one of the items.
            NotANumber: an answer holds what is no number.
        """
        kind = self._entry(name).kind
        if kind not in kinds:
            raise ModelMismatch(f"model {name!r} is a {kind} model, not {' or '.join(kinds)}")
        if self._closed:
            raise ModelUnavailable(f"model {name!r}: the worker is shutting down")
        with span(f"ask {name}", model=name, items=len(items)):
            return await self._answers(name, items, owner)

    async def _answers(self, name: str, items: Sequence[Any], owner: Owner) -> list[Any]:
        async with self._residency.holding_unannounced(name):
            # Prepared before a device is chosen, by any replica: meanwhile others choose, too.
            ready, digests = await self._preparers.prepare(
                self._replicas[name][0].runner, items, owner.tenant
            )
            submit = partial(self._submit, name, owner)
            if digests:
                return await self._kept.of(owner.tenant, name, digests, ready, submit)
            return await submit(ready)

    async def _submit(self, name: str, owner: Owner, ready: Sequence[Any]) -> list[Any]:
        runner, lane = self._choose(name, self._replicas[name], ready)
        answers = await lane.batcher.submit(name, runner, ready, owner=owner)
        require_numbers(name, answers)
        return answers

    def _entry(self, name: str) -> ModelEntry:
        model = self._manifest.models.get(name)
        if model is None:
            near = get_close_matches(name, list(self._manifest.models), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self._manifest.models)}"
            raise ModelUnavailable(f"no model is named {name!r}; {hint}")
        return model

    async def _load(self, name: str) -> int:
        """Put a model on every device, warm; return the bytes it takes on the one where it takes most."""
        place = await self._loader.load(self._entry(name), len(self._lanes))
        self._kept.clear()  # it is a model's room before it is theirs
        placed: list[tuple[_Replica, int]] = []
        for lane in self._lanes:
            device = lane.thread.device
            try:
                placed.append(await asyncio.wrap_future(lane.thread.call(partial(self._warm, place, lane))))
            except Exception as error:
                why = f"model {name!r} did not survive its warm-up on {device.name}: {error!r}"
                if not device.is_out_of_memory(error):
                    raise ModelUnavailable(why) from error
                # What did not fit is still held by the error's frames, and by the devices before this one.
                traceback.clear_frames(error.__traceback__)
                placed.clear()
                await self._release_memory()
                raise DeviceFull(why) from None
        self._replicas[name] = tuple(replica for replica, _ in placed)
        return max((size for _, size in placed), default=0)

    def _warm(self, place: Place, lane: _Lane) -> tuple[_Replica, int]:
        device = lane.thread.device
        before = device.memory()
        runner = place(device)
        if self._warm_up_first or self._started:
            runner.warm_up()
        return _Replica(runner, lane), device.memory() - before

    async def _unload(self, name: str) -> None:
        del self._replicas[name]
        await self._release_memory()

    async def _release_memory(self) -> None:
        self._kept.clear()
        for lane in self._lanes:
            await asyncio.wrap_future(lane.thread.call(lane.thread.device.release_memory))

    def _choose(self, name: str, replicas: Sequence[_Replica], items: Sequence[Any]) -> _Replica:
        """Return the replica that made the embedding asked about, else the one with least to do."""
        if items and isinstance(items[0], Prompt):
            maker = getattr(items[0].embedding, "maker", None)
            for replica in replicas:
                if replica.runner is maker:
                    return replica
            raise ModelMismatch(f"model {name!r} did not make the embedding it was asked about")
        return min(replicas, key=lambda replica: replica.lane.batcher.load())


class _JobModels(ModelCalls):
    """The pool as one job sees it."""

    def __init__(self, pool: ModelPool, manifest: Manifest, job: Hashable, tenant_id: str) -> None:
        self._pool = pool
        self._manifest = manifest
        self._tenant_id = tenant_id
        self._owner = Owner(tenant_id, job)

    def spec(self, name: str) -> ModelSpec:
        """Return what the manifest says of the model this tenant gets for `name`."""
        return self._pool.spec(self._manifest.for_tenant(name, self._tenant_id))

    async def _ask(self, name: str, kinds: Sequence[ModelKind], items: Sequence[Any]) -> list[Any]:
        mine = self._manifest.for_tenant(name, self._tenant_id)
        return await self._pool.ask(mine, kinds, items, self._owner)
