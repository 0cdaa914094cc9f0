"""Opening the models of a manifest: their files are fetched and checked while torch is imported."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

from consumer.models.batch_info import BatchInfo
from consumer.models.lean_torch import import_lean
from consumer.models.manifest import Manifest, load_manifest, parse_manifest
from consumer.models.pool import ModelPool
from consumer.models.simulated_pool import NAME as SIMULATED
from consumer.models.simulated_pool import simulated_pool
from consumer.models.weight_files import WeightCache
from consumer.ops.metrics import Metrics
from consumer.ops.phases import Phases
from consumer.ops.tracing import ran
from consumer.settings import InvalidSettings, Settings
from consumer.storage import ObjectStore


@dataclass(frozen=True, slots=True)
class OpenModels:
    """Models that are being loaded and warmed up, and what they came from."""

    manifest: Manifest
    devices: tuple[str, ...]
    pool: ModelPool
    warm: asyncio.Task[None]
    """Done when the pinned models are warm; raises `ModelUnavailable` if one does not get so."""
    broken: asyncio.Future[str]
    """Why a device answers nobody any more, as soon as that is so."""
    store: ObjectStore
    metrics: Metrics
    phases: Phases


@asynccontextmanager
async def open_models(
    settings: Settings, store: ObjectStore | None = None, phases: Phases | None = None
) -> AsyncIterator[OpenModels]:
    """Give the models while the context lasts; they go on warming up meanwhile.

    Args:
        settings: what the environment says.
        store: an object store other than Cloud Storage, which this opens otherwise.
        phases: told how long each part takes.

    Raises:
        InvalidSettings, InvalidManifest: an operator's input cannot be used.
        ModelUnavailable: this machine has no such device.
        StoreMisconfigured: there are no credentials.
        StoreUnavailable, ObjectMissing: a manifest in a bucket cannot be read.
    """
    phases, metrics = phases or Phases(), Metrics(settings.google_cloud_project)
    told = _Told(metrics)
    async with AsyncExitStack() as resources:
        with phases.time("manifest"):
            if store is None:
                store = await asyncio.to_thread(_cloud_storage, settings)
                resources.push_async_callback(store.close)
            manifest = await read_manifest(settings.model_path, store)
        devices, pool = await _open_pool(settings, manifest, store, phases, told)
        resources.push_async_callback(pool.close)
        warm = asyncio.create_task(_warm_up(pool, phases), name="warm-up")
        resources.push_async_callback(_given_up, warm)
        yield OpenModels(manifest, devices, pool, warm, told.broken, store, metrics, phases)


async def read_manifest(model_path: str, store: ObjectStore | None = None) -> Manifest:
    """Return the manifest under `model_path`: a folder, a `gs://` prefix, or the word `demo`."""
    if model_path.startswith("gs://"):
        if store is None:
            raise InvalidSettings(f"MODEL_PATH: {model_path} needs an object store to be read from")
        bucket, _, prefix = model_path.removeprefix("gs://").rstrip("/").partition("/")
        stored = await store.read(bucket, f"{prefix}/models.yaml".lstrip("/"))
        return parse_manifest(stored.data, base=model_path.rstrip("/"))
    return load_manifest(models_folder(model_path))


def models_folder(model_path: str) -> Path:
    """Return the folder of a local `model_path`; `demo` names the packaged models."""
    return Path(str(files("consumer.local") / "models")) if model_path == "demo" else Path(model_path)


async def _open_pool(
    settings: Settings, manifest: Manifest, store: ObjectStore, phases: Phases, told: _Told
) -> tuple[tuple[str, ...], ModelPool]:
    """Return the names of the devices, and the pool of the models on them."""
    devices = settings.devices
    cache = WeightCache(Path(tempfile.gettempdir()) / f"mlworker-models-{os.getuid()}", store)
    if devices and devices[0].startswith(SIMULATED):
        return devices, simulated_pool(
            manifest,
            devices,
            on_batch=told.ran,
            on_broken=told.broke,
            memory=settings.model_memory,
            shares=settings.tenant_shares,
            cache=cache,
        )
    for model in manifest.models.values():
        if model.pinned:
            cache.begin(manifest, model)
    with phases.time("torch"):
        loader = await asyncio.to_thread(import_lean, "consumer.models.torch_loader")
    devices = devices or await asyncio.to_thread(loader.all_devices)
    make = partial(
        loader.torch_pool,
        on_batch=told.ran,
        on_broken=told.broke,
        memory=settings.model_memory,
        shares=settings.tenant_shares,
        embedding_memory=settings.embedding_memory,
        warm_up_first=settings.warm_up == "before_ready",
    )
    return devices, await asyncio.to_thread(make, manifest, devices, cache=cache, phases=phases)


async def _warm_up(pool: ModelPool, phases: Phases) -> None:
    """Start the pool: it loads the models, which the loader times, and runs each of them."""
    with phases.time("warm_up", without=("weights", "build")):
        await pool.start()


async def _given_up(task: asyncio.Task[None]) -> None:
    """End a task, whether it is done, failed or under way; who waits for it hears of its failure."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


class _Told:
    """What devices' threads tell: of every batch, and once why there will be no more."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self.broken: asyncio.Future[str] = self._loop.create_future()

    def ran(self, batch: BatchInfo) -> None:
        self._metrics.ran(batch)
        ran(batch)

    def broke(self, why: str) -> None:
        self._loop.call_soon_threadsafe(self._heard, why)

    def _heard(self, why: str) -> None:
        if not self.broken.done():
            self.broken.set_result(why)


def _cloud_storage(settings: Settings) -> ObjectStore:
    from consumer.storage.gcs import GcsStore

    return GcsStore(settings.google_cloud_project, emulator=settings.storage_emulator_host)
