"""Models as torch runs them."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import cast

import torch
from torch import nn

from consumer.models.architectures import ARCHITECTURES
from consumer.models.batch_info import BatchInfo
from consumer.models.classification import ClassificationRunner
from consumer.models.detection import DetectionRunner
from consumer.models.device import Device
from consumer.models.folding import fold_normalisations
from consumer.models.instances import InstanceRunner
from consumer.models.loader import Place
from consumer.models.manifest import Manifest, ModelEntry
from consumer.models.pool import ModelPool
from consumer.models.precision import Compile, compute_as_told, exact_float32, uncompiled
from consumer.models.runner import AnyRunner
from consumer.models.sam import SamRunner
from consumer.models.semantic import SemanticRunner
from consumer.models.threads import limit_threads
from consumer.models.torch_device import TorchDevice
from consumer.models.waiting import EVEN, Shares
from consumer.models.weight_files import CheckedFile, WeightCache
from consumer.models.weights import Builder, load
from consumer.ops.phases import Phases
from pipeline_steps.errors import ModelUnavailable
from pipeline_steps.models import ModelKind, ModelSpec

MakeRunner = Callable[[nn.Module, ModelSpec, torch.device, int], AnyRunner]

RUNNERS: Mapping[ModelKind, MakeRunner] = MappingProxyType(
    {
        ModelKind.DETECTION: DetectionRunner,
        ModelKind.SAM: SamRunner,
        ModelKind.INSTANCE: InstanceRunner,
        ModelKind.SEMANTIC: SemanticRunner,
        ModelKind.CLASSIFICATION: ClassificationRunner,
        ModelKind.TORCHSCRIPT: ClassificationRunner,
    }
)
"""What runs each kind of model. A TorchScript archive is a classifier that brings its own code."""

CONVOLUTIONAL = frozenset(
    {ModelKind.DETECTION, ModelKind.INSTANCE, ModelKind.SEMANTIC, ModelKind.CLASSIFICATION}
)
"""Kinds of mostly convolutions, which are fastest with the channels of a pixel side by side."""


class TorchLoader:
    """Reads models into torch.

    Args:
        manifest: where their weights are.
        cache: keeps what is fetched.
        architectures: builders by name.
        phases: told how long weights are waited for, and what building networks takes.
        compile_trunk: makes networks faster.
    """

    def __init__(
        self,
        manifest: Manifest,
        cache: WeightCache,
        architectures: Mapping[str, Builder] = ARCHITECTURES,
        phases: Phases | None = None,
        compile_trunk: Compile = uncompiled,
    ) -> None:
        self._manifest = manifest
        self._cache = cache
        self._architectures = architectures
        self._phases = phases or Phases()
        self._compile = compile_trunk

    async def load(self, model: ModelEntry, devices: int) -> Place:
        """Fetch, check and read the model, for so many devices.

        Raises:
            ModelUnavailable: see `weights.load`; or nothing runs models of this kind yet.
        """
        if model.kind not in RUNNERS:
            raise ModelUnavailable(
                f"model {model.name!r}: this worker runs no {model.kind} models yet: take it off models.yaml"
            )
        with self._phases.time("weights"):
            file = await self._cache.fetch(self._manifest, model)
        with self._phases.time("build"):
            network = await asyncio.to_thread(ready_to_answer, model, file, self._architectures)
        return _Placing(model, network, self._compile, devices)


def torch_pool(
    manifest: Manifest,
    devices: Sequence[str],
    *,
    cache: WeightCache | Path,
    on_batch: Callable[[BatchInfo], None] = lambda _: None,
    on_broken: Callable[[str], None] = lambda _: None,
    memory: int | None = None,
    warm_up_first: bool = True,
    shares: Shares = EVEN,
    embedding_memory: int = 0,
    phases: Phases | None = None,
) -> ModelPool:
    """Return a pool of the manifest's models on torch's devices, and let torch use its share of the CPU only.

    Args:
        manifest: which models there are.
        devices: `cpu`, `cuda:N`.
        cache: fetches weights; a folder is enough where none are in a bucket.
        on_batch: see `ModelPool`.
        on_broken: see `ModelPool`.
        memory: see `ModelPool`.
        warm_up_first: see `ModelPool`.
        shares: see `ModelPool`.
        embedding_memory: see `ModelPool`.
        phases: see `TorchLoader`.

    Raises:
        ModelUnavailable: this machine has no such device.
    """
    limit_threads(on_gpu=any(name.startswith("cuda") for name in devices))
    exact_float32()
    weights = cache if isinstance(cache, WeightCache) else WeightCache(cache)
    loader = TorchLoader(manifest, weights, phases=phases)
    found = [TorchDevice(name) for name in devices]
    return ModelPool(
        manifest,
        found,
        loader,
        on_batch=on_batch,
        on_broken=on_broken,
        memory=memory,
        warm_up_first=warm_up_first,
        shares=shares,
        embedding_memory=embedding_memory,
    )


def all_devices() -> tuple[str, ...]:
    """Return the names of all GPUs of this machine, or of the CPU where there are none."""
    return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count())) or ("cpu",)


class _Placing:
    """Moves a network to each of so many devices, and wraps it in what runs its kind.

    Moving a network moves itself, and runners change what they are given. So all devices but the last get a
    copy, made when it is their turn: one device, the usual case, costs none.
    """

    def __init__(self, model: ModelEntry, network: nn.Module, compile_trunk: Compile, devices: int) -> None:
        self._model = model
        self._network = network
        self._compile = compile_trunk
        self._left = devices

    def __call__(self, device: Device) -> AnyRunner:
        self._left -= 1
        if self._left:
            network = copy.deepcopy(self._network)
        else:
            network = self._network
            del self._network  # or it would be held here when the device gives it back
        target = cast(TorchDevice, device).torch
        compute_as_told(network, self._model, target, self._compile)
        return RUNNERS[self._model.kind](network.to(target), self._model.spec, target, self._model.max_batch)


def ready_to_answer(
    model: ModelEntry, file: Path | CheckedFile, architectures: Mapping[str, Builder]
) -> nn.Module:
    """Return the network with its weights, laid out for answering: the same answers but for rounding.

    Raises:
        ModelUnavailable: see `weights.load`.
    """
    network = load(model, file, architectures)
    if model.kind in CONVOLUTIONAL:
        fold_normalisations(network)
        network = network.to(memory_format=torch.channels_last)
    return network
