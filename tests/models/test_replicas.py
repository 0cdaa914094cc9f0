"""One model on several devices: each has a network of its own, and all answer alike."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from consumer.models.manifest import Manifest, ModelEntry, load_manifest
from consumer.models.torch_device import TorchDevice
from consumer.models.torch_loader import TorchLoader, torch_pool
from consumer.models.weight_files import WeightCache
from tests.models.random_models import ModelFolder, photo, sha256

PICTURES = [photo(90, 120, seed) for seed in range(4)]

KINDS: Mapping[str, Mapping[str, Any]] = {
    "detection": {"architecture": "fcos_small", "classes": 2, "input_size": 128},
    "instance": {"architecture": "maskrcnn_small", "classes": 1, "input_size": 128},
    "semantic": {"architecture": "lraspp_mobilenet_v3_large", "classes": 2, "input_size": 64},
    "classification": {"architecture": "small_classifier", "classes": 3, "input_size": 64},
    "sam": {"architecture": "sam_small"},
}


def _torchscript(folder: Path) -> Manifest:
    plain = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    torch.jit.script(plain).save(str(folder / "m.pt"))  # type: ignore[no-untyped-call]
    entry = ModelEntry(
        name="m",
        kind="torchscript",  # type: ignore[arg-type]
        architecture="",
        weights="m.pt",
        sha256=sha256(folder / "m.pt"),
        version="1",
        classes=("a", "b"),
        input_size=64,
    )
    return Manifest(str(folder), [entry])


def _manifest(folder: ModelFolder, kind: str) -> Manifest:
    if kind == "torchscript":
        return _torchscript(folder.path)
    folder.add("m", kind, **KINDS[kind])
    return load_manifest(folder.path)


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("kind", [*KINDS, "torchscript"])
def test_each_of_several_devices_has_a_network_of_its_own_that_answers_as_the_others(
    folder: ModelFolder, kind: str
) -> None:
    manifest = _manifest(folder, kind)
    loader = TorchLoader(manifest, WeightCache(folder.path / "cache"))
    place = asyncio.run(loader.load(manifest.models["m"], 3))

    runners = [place(TorchDevice("cpu")) for _ in range(3)]

    where = [{tensor.data_ptr() for tensor in _tensors(runner)} for runner in runners]
    assert where[0]
    assert sum(map(len, where)) == len(set.union(*where))
    said = [[_said(one) for one in runner.run([runner.prepare(PICTURES[0])])] for runner in runners]
    assert said[0] == said[1] == said[2]


def _tensors(runner: Any) -> list[torch.Tensor]:
    model: nn.Module = runner._model
    return [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.numel()]


def _said(answer: Any) -> list[Any]:
    """Return an answer in a form that can be compared: numbers and names."""
    if isinstance(answer, np.ndarray | torch.Tensor):
        return [answer.tolist()]
    if hasattr(answer, "look"):  # an embedding
        return [answer.look.keys.tolist(), answer.look.values.tolist()]
    return [repr(answer)]


def test_two_devices_of_torch_share_the_work_and_answer_as_one_does(folder: ModelFolder) -> None:
    folder.add("plants", "detection", "fcos_small", classes=2, input_size=128)
    manifest = load_manifest(folder.path)

    def answers(devices: list[str]) -> tuple[list[Any], set[int]]:
        threads: set[int] = set()
        pool = torch_pool(
            manifest,
            devices,
            cache=folder.path / "cache",
            on_batch=lambda _: threads.add(threading.get_ident()),
        )

        async def ask() -> list[Any]:
            await pool.start()
            try:
                return await asyncio.gather(*(pool.detect("plants", [picture]) for picture in PICTURES))
            finally:
                await pool.close()

        return [boxes for (boxes,) in asyncio.run(ask())], threads

    found, theirs = answers(["cpu", "cpu"])
    expected, its = answers(["cpu"])

    assert (len(theirs), len(its)) == (2, 1)
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine.xyxy, other.xyxy)
        np.testing.assert_array_equal(mine.score, other.score)
