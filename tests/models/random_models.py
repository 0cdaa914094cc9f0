"""Models with random weights, and pictures to show them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from consumer.models.architectures import ARCHITECTURES
from consumer.models.manifest import ModelEntry
from pipeline_steps.artifacts import Pixels
from pipeline_steps.models import ModelKind, ModelSpec


def network(architecture: str, classes: int = 0) -> nn.Module:
    """Return it with random weights, always the same."""
    torch.manual_seed(0)
    made = ARCHITECTURES[architecture](classes)
    if architecture.startswith(("fcos", "retinanet")):
        # A fresh detector finds all boxes equally likely: their order would be an accident.
        made.head.classification_head.cls_logits.weight *= 30  # type: ignore[union-attr, operator]
    return made


def spec(kind: ModelKind, *, classes: int = 0, **changes: Any) -> ModelSpec:
    fields = {"version": "1", "sha256": "", "threshold": 0.5, "input_size": 256} | changes
    return ModelSpec(name="m", kind=kind, classes=tuple("abcdefgh"[:classes]), **fields)


def photo(height: int, width: int, seed: int = 0) -> Pixels:
    """Return a picture with shapes in it, so that even untrained networks answer it unevenly."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), rng.integers(60, 120, 3), np.uint8)
    for _ in range(30):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        side = int(rng.integers(5, max(6, min(height, width) // 4)))
        pixels[y : y + side, x : x + side] = rng.integers(0, 256, 3)
    noise = rng.integers(0, 20, pixels.shape, np.uint8)
    return np.maximum(pixels, 20) - noise


def entry(name: str, **fields: Any) -> ModelEntry:
    """Return what a manifest says of a model whose weights are not there."""
    known = {
        "name": name,
        "kind": "detection",
        "architecture": "x",
        "weights": "x.pt",
        "sha256": "0" * 64,
        "version": "1",
        "classes": ("a",),
        "input_size": 64,
    }
    return ModelEntry.model_validate(known | fields)


class ModelFolder:
    """A folder with a `models.yaml`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.models: list[dict[str, Any]] = []

    def add(self, name: str, kind: str, architecture: str, *, classes: int = 0, **fields: Any) -> Path:
        """Add a model with random weights, kept in 16 bits as ours are, and return its file."""
        state = network(architecture, classes).state_dict()
        small = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        file = self.path / f"{name}.safetensors"
        save_file(small, file)
        self.models.append(
            {
                "name": name,
                "kind": kind,
                "architecture": architecture,
                "weights": file.name,
                "sha256": sha256(file),
                "version": "1",
                "classes": list("abcdefgh"[:classes]),
                "input_size": 256,
                "max_batch": 2,
            }
            | fields
        )
        (self.path / "models.yaml").write_text(yaml.safe_dump({"models": self.models}))
        return file


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
