"""The shipped detector as the worker lays it out, without the worker: for the bare loop and the peers."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

import consumer.local
from consumer.models.architectures import ARCHITECTURES
from consumer.models.detection import DetectionRunner
from consumer.models.manifest import load_manifest
from consumer.models.torch_loader import ready_to_answer

MODELS = Path(consumer.local.__file__).parent / "models"


def runner(name: str) -> DetectionRunner:
    """Return the model of that name on the CPU."""
    entry = load_manifest(MODELS).models[name]
    network = ready_to_answer(entry, MODELS / entry.weights, ARCHITECTURES)
    return cast(DetectionRunner, DetectionRunner(network, entry.spec, torch.device("cpu"), entry.max_batch))
