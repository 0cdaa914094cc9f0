"""`DEVICES=simulated`: every kind of model answers in its own types, and the device misbehaves as told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from consumer.models.manifest import Manifest, parse_manifest
from consumer.models.pool import ModelPool
from consumer.models.simulated_pool import simulated_pool
from consumer.models.weight_files import WeightCache
from consumer.settings import Settings
from pipeline_steps.errors import DeviceOverloaded, ModelUnavailable, NotANumber
from pipeline_steps.models import MaskQuality

T = TypeVar("T")
PICTURE = np.zeros((40, 60, 3), np.uint8)


def manifest(**kinds: str) -> Manifest:
    entries = []
    for name, kind in kinds.items():
        classes = "" if kind in ("sam", "embedding") else "\n    classes: [plant, pot]"
        weights = "w.pt" if kind == "torchscript" else "w.safetensors"
        entries.append(
            f"  - name: {name}\n    kind: {kind}\n    architecture: any\n    weights: {weights}\n"
            f"    sha256: '{'0' * 64}'\n    version: '1'\n    input_size: 64\n    max_batch: 8{classes}\n"
        )
    return parse_manifest(("models:\n" + "".join(entries)).encode(), base="models")


def asked(
    ask: Callable[[ModelPool], Awaitable[T]], device: str = "simulated", kind: str = "detection", **kinds: str
) -> T:
    async def whole() -> T:
        pool = simulated_pool(manifest(**(kinds or {"m": kind})), [device])
        try:
            await pool.start()
            return await ask(pool)
        finally:
            await pool.close()

    return asyncio.run(whole())


def test_models_take_as_many_bytes_as_they_are_told_to() -> None:
    async def start() -> None:
        pool = simulated_pool(manifest(a="detection", b="detection"), ["simulated:bytes=60"], memory=100)
        try:
            await pool.start()
        finally:
            await pool.close()

    with pytest.raises(ModelUnavailable, match=r"pinned models take 120 bytes .* MODEL_MEMORY is 100"):
        asyncio.run(start())


def test_a_detector_finds_boxes_inside_the_picture() -> None:
    (found,) = asked(lambda pool: pool.detect("m", [PICTURE]), "simulated:found=3")

    assert len(found) == 3
    assert found.label.tolist() == ["plant", "pot", "plant"]
    assert found.xyxy.min() >= 0
    assert found.xyxy.max(0).tolist()[2:] == [60, 40]


def test_an_instance_model_finds_masks_of_its_boxes() -> None:
    (found,) = asked(lambda pool: pool.instances("m", [PICTURE]), kind="instance")

    assert [mask.bits.shape for mask in found.mask] == [(40, 20)] * 3


def test_a_semantic_model_labels_every_pixel() -> None:
    (labels,) = asked(lambda pool: pool.semantic("m", [PICTURE]), kind="semantic")

    assert (labels.shape, labels.dtype, sorted(set(labels.ravel().tolist()))) == ((40, 60), np.int16, [-1, 0])


@pytest.mark.parametrize("kind", ["classification", "torchscript"])
def test_a_classifier_gives_probabilities(kind: str) -> None:
    (answer,) = asked(lambda pool: pool.classify("m", [PICTURE]), kind=kind)

    assert answer.shape == (2,)
    assert answer.sum() == pytest.approx(1)


def test_a_sam_model_fills_the_boxes_and_squares_it_is_asked_about() -> None:
    async def ask(pool: ModelPool) -> Any:
        (seen,) = await pool.embed("m", [PICTURE])
        by_box = await pool.masks_of_boxes("m", seen, np.array([[10, 10, 30, 20]], np.float32))
        by_point = await pool.masks_of_points("m", seen, np.array([[0, 0]], np.float32))
        points = np.array([[0.0, 0.0]] * 5 + [[20.0, 20.0]])
        return by_box, by_point, await pool.every_mask_of_points("m", seen, points, MaskQuality(0, 0))

    by_box, by_point, every = asked(ask, kind="sam")

    assert by_box.xyxy.tolist() == [[10, 10, 30, 20]]
    assert by_point.xyxy.tolist() == [[0, 0, 8, 8]]
    assert every.xyxy.tolist() == [[0, 0, 8, 8]] * 5 + [[12, 12, 28, 28]]
    assert every.sketch[5].drawn().area == every.area[5] == 16 * 16


def test_a_kind_nothing_runs_is_refused_at_the_start() -> None:
    with pytest.raises(ModelUnavailable, match="runs no embedding models"):
        asked(lambda pool: pool.embed("m", [PICTURE]), kind="embedding")


def test_memory_for_two_halves_larger_batches_until_they_fit() -> None:
    answers = asked(lambda pool: pool.detect("m", [PICTURE] * 8), "simulated:memory=2")

    assert len(answers) == 8


def test_memory_for_none_overloads_the_device() -> None:
    with pytest.raises(DeviceOverloaded):
        asked(lambda pool: pool.detect("m", [PICTURE]), "simulated:memory=0")


def test_it_hangs_while_its_control_file_says_so(tmp_path: Path) -> None:
    control = tmp_path / "control"

    async def ask(pool: ModelPool) -> bool:
        control.write_text("hang")
        asking = asyncio.ensure_future(pool.detect("m", [PICTURE]))
        while pool.busy_for() < 0.05:  # noqa: ASYNC110 (the device's thread rings no bell)
            await asyncio.sleep(0.01)
        hung = not asking.done()
        control.write_text("")
        await asking
        return hung

    assert asked(ask, f"simulated:control={control}")


@pytest.mark.parametrize(("order", "error"), [("fail", RuntimeError), ("oom", DeviceOverloaded)])
def test_it_fails_while_its_control_file_says_so(tmp_path: Path, order: str, error: type[Exception]) -> None:
    control = tmp_path / "control"

    async def ask(pool: ModelPool) -> int:
        control.write_text(order)
        with pytest.raises(error):
            await pool.detect("m", [PICTURE])
        control.unlink()
        return len(await pool.detect("m", [PICTURE]))

    assert asked(ask, f"simulated:control={control}") == 1


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("simulated:memory", "name=value"),
        ("simulated:memory=-1", "memory: Input should be greater"),
        ("simulated:colour=red", "colour: Extra inputs"),
        ("cpu", "all devices are simulated"),
    ],
)
def test_a_device_that_cannot_be_is_named(device: str, said: str) -> None:
    with pytest.raises(ModelUnavailable, match=said):
        simulated_pool(manifest(m="detection"), [device])


def test_it_is_refused_where_messages_are_real() -> None:
    with pytest.raises(ValueError, match="DEVICES: `simulated` only with PUBSUB_EMULATOR_HOST"):
        Settings(
            google_cloud_project="p", subscription="sub", results_topic="results", bucket="photos",
            dead_letter_topic="dead", backend_url="https://backend.example", devices="simulated:memory=1",
        )  # fmt: skip


def test_it_needs_no_torch() -> None:
    code = "import sys, consumer.models.simulated_pool; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("kind", ["detection", "instance", "classification"])
def test_answers_that_are_no_numbers_are_an_error_and_not_an_empty_answer(tmp_path: Path, kind: str) -> None:
    control = tmp_path / "device"
    control.write_text("nan")
    ask = {"detection": "detect", "instance": "instances", "classification": "classify"}[kind]

    with pytest.raises(NotANumber, match="model 'm' answered what is no number"):
        asked(lambda pool: getattr(pool, ask)("m", [PICTURE]), f"simulated:control={control}", kind)


def test_a_device_with_files_has_the_models_whose_files_are_those_of_the_manifest(tmp_path: Path) -> None:
    models = Manifest(str(tmp_path), list(manifest(m="detection").models.values()))
    (tmp_path / "w.safetensors").write_bytes(b"anything")
    cache = WeightCache(tmp_path / "copies")

    async def start() -> None:
        pool = simulated_pool(models, ["simulated:files=1"], cache=cache)
        try:
            await pool.start()
        finally:
            await pool.close()

    with pytest.raises(ModelUnavailable, match=r"w\.safetensors has sha256 .*, expected 0000"):
        asyncio.run(start())
