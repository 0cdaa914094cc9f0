"""The demo's models with trunks that compute in 16 bits, as `precision: fast` lets them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import consumer.local
from consumer.local.scenes import demo_photo
from consumer.models.architectures import ARCHITECTURES
from consumer.models.detection import DetectionRunner
from consumer.models.manifest import ModelEntry, load_manifest
from consumer.models.precision import Forward, compute_as_told, exact_float32, reduce_trunk, sixteen_bits
from consumer.models.torch_device import TorchDevice
from consumer.models.torch_loader import TorchLoader, ready_to_answer
from consumer.models.weight_files import WeightCache
from pipeline_steps.geometry import overlaps
from pipeline_steps.models import LocalBoxes, Precision
from tests.models.random_models import ModelFolder, network, photo

MODELS = Path(consumer.local.__file__).parent / "models"
PLANTS = load_manifest(MODELS).models["plants"]
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def plants_on(seed: int, dtype: torch.dtype | None) -> LocalBoxes:
    network = ready_to_answer(PLANTS, MODELS / PLANTS.weights, ARCHITECTURES)
    if dtype is not None:
        reduce_trunk(network, dtype, "cpu")
    runner = DetectionRunner(network, PLANTS.spec, CPU, 1)
    (found,) = runner.run([runner.prepare(demo_photo(seed, 384, 512).pixels)])
    return found


@pytest.mark.parametrize(("dtype", "scores"), [(torch.bfloat16, 0.02), (torch.float16, 0.002)])
def test_sixteen_bits_find_the_same_plants(dtype: torch.dtype, scores: float) -> None:
    for seed in range(3):
        exact, fast = plants_on(seed, None), plants_on(seed, dtype)
        # A plant scored at the very threshold may go to either side of it: those are compared with all.
        for some, others in ((exact, fast), (fast, exact)):
            sure = some.above(PLANTS.threshold)
            same = overlaps(sure.xyxy, others.xyxy).argmax(axis=1)
            assert len(sure) > 5
            assert overlaps(sure.xyxy, others.xyxy).max(axis=1).min() >= 0.9
            assert abs(sure.score - others.score[same]).max() <= scores


def told(**said: Any) -> ModelEntry:
    return PLANTS.model_copy(update=said)


@pytest.mark.parametrize("capability", ["amx_bf16", "avx512_bf16"])
def test_a_cpu_that_multiplies_bfloat16_does_so_if_it_is_told_to_be_fast(
    monkeypatch: pytest.MonkeyPatch, capability: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    fast: Any = network("fcos_small", 1)
    exact: Any = network("fcos_small", 1)
    before = exact.backbone.forward

    compute_as_told(fast, told(precision=Precision.FAST), CPU)
    compute_as_told(exact, PLANTS, CPU)

    assert fast.backbone.forward.computed.dtype == torch.bfloat16
    assert exact.backbone.forward == before


def test_another_cpu_computes_in_32_bits_even_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    model: Any = network("fcos_small", 1)
    before = model.backbone.forward

    compute_as_told(model, told(precision=Precision.FAST), CPU)

    assert model.backbone.forward == before


@pytest.mark.parametrize(
    ("capability", "said", "dtype"),
    [
        ((7, 5), {}, torch.float16),
        ((8, 0), {}, torch.bfloat16),
        ((8, 9), {}, torch.bfloat16),
        ((8, 9), {"dtype": "float16"}, torch.float16),
    ],
)
def test_a_gpu_computes_in_the_sixteen_bits_it_is_best_at(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], said: dict[str, str], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)

    assert sixteen_bits(told(precision=Precision.FAST, **said), GPU) == dtype


@dataclass
class Watching:
    """Compiles nothing, but sees what a compiler would."""

    asked: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def __call__(self, forward: Forward, model: ModelEntry, device: torch.device) -> Forward:
        self.asked.append(f"{model.name} on {device}")

        def compiled(pictures: torch.Tensor) -> Any:
            self.batches.append(len(pictures))
            return forward(pictures)

        return compiled


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize(
    ("kind", "architecture", "classes", "numbers"),
    [
        ("detection", "fcos_small", 2, lambda boxes: boxes.xyxy),
        ("sam", "sam_small", 0, lambda embedding: embedding.look.places),
        ("classification", "small_classifier", 3, lambda shares: shares),
    ],
)
def test_a_compiler_has_the_trunk_of_every_kind_before_the_first_message(
    folder: ModelFolder,
    kind: str,
    architecture: str,
    classes: int,
    numbers: Callable[[Any], Any],
    precision: Precision,
) -> None:
    folder.add("m", kind, architecture, classes=classes, precision=precision.value)
    manifest, compiler = load_manifest(folder.path), Watching()
    cache = WeightCache(folder.path)

    async def placed(*how: Any) -> Any:
        loader = TorchLoader(manifest, cache, ARCHITECTURES, None, *how)
        return (await loader.load(manifest.models["m"], 1))(TorchDevice("cpu"))

    watched, plain = asyncio.run(placed(compiler)), asyncio.run(placed())
    watched.warm_up()

    assert compiler.asked == ["m on cpu"]
    warmed_up = list(compiler.batches)
    assert warmed_up
    (answer,), (expected,) = (one.run([one.prepare(photo(90, 120))]) for one in (watched, plain))
    assert compiler.batches == [*warmed_up, 1]
    np.testing.assert_array_equal(numbers(answer), numbers(expected))


def test_float32_is_float32_and_not_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    exact_float32()

    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
