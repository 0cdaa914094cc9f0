"""Writing trained models as the worker reads them: fp16 safetensors and their entry in `models.yaml`."""

import hashlib
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

HEADER = """\
# The demo models: small networks trained on generated scenes (docs/demo-models.md).
# Written by tools/train_demo_models.py: weights and sha256 always belong together.
"""
ORDER = ("plants", "containers", "sam", "species")


def export(network: nn.Module, folder: Path, entry: dict[str, Any]) -> Path:
    """Write a model's weights and put its entry into the manifest, replacing an older one of that name.

    Args:
        network: The model.
        folder: Where `models.yaml` and the weights live.
        entry: The manifest entry; `weights`, `sha256` and `version` are filled in here.

    Returns:
        Path of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"{entry['name']}.safetensors"
    tensors = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    save_file(tensors, weights)
    weights.chmod(0o644)  # safetensors writes for the owner alone; these are shipped
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    head = {key: entry[key] for key in ("name", "kind", "architecture")}
    rest = {key: value for key, value in entry.items() if key not in head}
    full = {**head, "weights": weights.name, "sha256": digest, "version": "1", **rest}
    manifest = folder / "models.yaml"
    models = yaml.safe_load(manifest.read_text())["models"] if manifest.exists() else []
    kept = [model for model in models if model["name"] != entry["name"]]
    ordered = sorted([*kept, full], key=lambda model: ORDER.index(model["name"]))
    manifest.write_text(HEADER + yaml.safe_dump({"models": ordered}, sort_keys=False, width=100))
    return weights


def exported(network: nn.Module, weights: Path) -> nn.Module:
    """The network as the worker will have it: with the weights that were written, rounded to fp16."""
    network.load_state_dict({key: torch.as_tensor(value) for key, value in load_file(weights).items()})
    return network.eval()
