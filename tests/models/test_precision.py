"""The demo detector with a trunk that computes in 16 bits, as `dtype` in the manifest lets it on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import consumer.local
from consumer.local.scenes import demo_photo
from consumer.models.architectures import ARCHITECTURES
from consumer.models.detection import DetectionRunner
from consumer.models.manifest import load_manifest
from consumer.models.precision import reduce_trunk
from consumer.models.torch_loader import ready_to_answer
from pipeline_steps.geometry import overlaps
from pipeline_steps.models import LocalBoxes

MODELS = Path(consumer.local.__file__).parent / "models"
PLANTS = load_manifest(MODELS).models["plants"]


def plants_on(seed: int, dtype: torch.dtype | None) -> LocalBoxes:
    network = ready_to_answer(PLANTS, MODELS / PLANTS.weights, ARCHITECTURES)
    if dtype is not None:
        reduce_trunk(network, dtype, "cpu")
    runner = DetectionRunner(network, PLANTS.spec, torch.device("cpu"), 1)
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
