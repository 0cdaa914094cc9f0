"""What runs on a GPU stays on it: every kind of model, on GPUs that are pretended, answers as on the CPU."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
import torch

from consumer.models.manifest import load_manifest
from consumer.models.pool import ModelPool
from consumer.models.torch_device import TorchDevice
from consumer.models.torch_loader import TorchLoader
from consumer.models.weight_files import WeightCache
from pipeline_steps.models import LocalMasks, MaskQuality, SketchedMasks
from tests.models.pretended_gpus import PretendedGpu, pretended_gpus
from tests.models.random_models import ModelFolder, photo

GPUS = (PretendedGpu(0), PretendedGpu(1))
PICTURES = [photo(90, 120, seed) for seed in range(5)]
BOXES = np.array([[10, 10, 60, 60], [5, 40, 110, 85]], np.float32)

Ask = Callable[[ModelPool], Coroutine[Any, Any, Any]]


def answered(folder: ModelFolder, devices: tuple[TorchDevice, ...], ask: Ask) -> list[Any]:
    """Return what a pool on these devices says, all of which have answered something."""
    manifest = load_manifest(folder.path)
    threads: set[int] = set()
    loader = TorchLoader(manifest, WeightCache(folder.path / "cache"))

    async def whole() -> list[Any]:
        pool = ModelPool(manifest, devices, loader, on_batch=lambda _: threads.add(threading.get_ident()))
        await pool.start()
        try:
            return await asyncio.gather(*(ask(pool) for _ in range(3 * len(devices))))
        finally:
            await pool.close()

    found = asyncio.run(whole())
    assert len(threads) == len(devices)
    return found


def as_on_the_cpu(folder: ModelFolder, ask: Ask) -> list[tuple[Any, Any]]:
    """Return what two GPUs said, beside what the CPU says."""
    expected, *_ = answered(folder, (TorchDevice("cpu"),), ask)
    return [(said, expected) for said in answered(folder, GPUS, ask)]


def same_masks(found: LocalMasks, expected: LocalMasks) -> None:
    np.testing.assert_allclose(found.score, expected.score, atol=1e-4)
    assert len(found.mask) == len(expected.mask) > 0
    for mine, other in zip(found.mask, expected.mask, strict=True):
        assert abs(mine.area - other.area) <= max(3, other.area // 1000)


def test_what_is_on_a_gpu_does_not_mix_with_what_is_elsewhere() -> None:
    first, second = (gpu.torch for gpu in GPUS)
    with pretended_gpus():
        there = torch.ones(2, 2, device=first)
        assert there.device == first
        assert (there @ there + 1).cpu().tolist() == [[3.0, 3.0], [3.0, 3.0]]
        for elsewhere in (torch.ones(2, 2), torch.ones(2, 2).to(second)):
            with pytest.raises(RuntimeError, match="expected all tensors on one device"):
                there @ elsewhere
        with pytest.raises((TypeError, RuntimeError)):
            there.numpy()


@pytest.mark.parametrize("architecture", ["fcos_small", "fasterrcnn_mobilenet_v3_large_fpn"])
def test_detectors_answer_on_gpus_as_on_the_cpu(folder: ModelFolder, architecture: str) -> None:
    folder.add("m", "detection", architecture, classes=2, input_size=128)

    for found, expected in as_on_the_cpu(folder, lambda pool: pool.detect("m", PICTURES)):
        for mine, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine.score, other.score, atol=1e-4)
            np.testing.assert_allclose(mine.xyxy, other.xyxy, atol=1e-2)


def test_instances_are_found_on_gpus_as_on_the_cpu(folder: ModelFolder) -> None:
    folder.add("m", "instance", "maskrcnn_small", classes=1, input_size=128)

    for found, expected in as_on_the_cpu(folder, lambda pool: pool.instances("m", PICTURES)):
        for mine, other in zip(found, expected, strict=True):
            same_masks(mine, other)


def test_label_maps_are_made_on_gpus_as_on_the_cpu(folder: ModelFolder) -> None:
    folder.add("m", "semantic", "lraspp_mobilenet_v3_large", classes=2, input_size=64)

    for found, expected in as_on_the_cpu(folder, lambda pool: pool.semantic("m", PICTURES)):
        for mine, other in zip(found, expected, strict=True):
            assert (mine != other).mean() < 0.01


def test_pictures_are_classified_on_gpus_as_on_the_cpu(folder: ModelFolder) -> None:
    folder.add("m", "classification", "small_classifier", classes=3, input_size=64)

    for found, expected in as_on_the_cpu(folder, lambda pool: pool.classify("m", PICTURES)):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_sam_answers_prompts_on_gpus_as_on_the_cpu(folder: ModelFolder) -> None:
    folder.add("m", "sam", "sam_small")

    async def ask(pool: ModelPool) -> tuple[LocalMasks, LocalMasks, SketchedMasks]:
        one, other, *_ = await pool.embed("m", [picture.copy() for picture in PICTURES])
        grid = np.stack(np.meshgrid(np.arange(5.0, 120, 20), np.arange(5.0, 90, 20)), 2).reshape(-1, 2)
        return (
            await pool.masks_of_boxes("m", one, BOXES),
            await pool.masks_of_points("m", other, BOXES[:, :2]),
            await pool.every_mask_of_points("m", one, grid, MaskQuality(0, 0)),
        )

    for (boxes, points, every), (of_boxes, of_points, of_every) in as_on_the_cpu(folder, ask):
        same_masks(boxes, of_boxes)
        same_masks(points, of_points)
        assert len(every) == len(of_every) > 50
        np.testing.assert_allclose(every.score, of_every.score, atol=1e-4)
        np.testing.assert_allclose(every.area, of_every.area, atol=5)
