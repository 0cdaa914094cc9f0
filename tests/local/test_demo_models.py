"""The shipped models: they are what the manifest says, and do on unseen scenes what the demo promises."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from segment_anything import SamPredictor
from torch import nn
from torchvision.ops import box_iou

import consumer.local
from consumer.local.scenes import demo_photo, scene
from consumer.models.architectures import ARCHITECTURES

FOLDER = Path(consumer.local.__file__).parent / "models"
ENTRIES: dict[str, dict[str, Any]] = {
    entry["name"]: entry for entry in yaml.safe_load((FOLDER / "models.yaml").read_text())["models"]
}


def load(name: str) -> nn.Module:
    entry = ENTRIES[name]
    network = ARCHITECTURES[entry["architecture"]](len(entry.get("classes", ())))
    network.load_state_dict(load_file(FOLDER / entry["weights"]))
    return network.eval()


def detect(network: nn.Module, pixels: np.ndarray, entry: dict[str, Any]) -> dict[str, torch.Tensor]:
    """As the worker does it: resized to the input size, above the threshold, scaled back."""
    scale = entry["input_size"] / max(pixels.shape[:2])
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    small = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    with torch.inference_mode():
        found = network([torch.from_numpy(small).permute(2, 0, 1) / 255])[0]
    kept = found["scores"] >= entry["threshold"]
    return {"boxes": found["boxes"][kept] / scale, "labels": found["labels"][kept]}


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_weights_are_those_of_the_manifest_and_fit_their_architecture(name: str) -> None:
    weights = FOLDER / ENTRIES[name]["weights"]
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == ENTRIES[name]["sha256"]
    load(name)


def test_all_weights_together_are_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) <= 15_000_000


def test_plants_of_demo_photos_are_counted_within_a_tenth_and_boxed_well() -> None:
    network = load("plants")
    for seed in (11, 12, 13):
        view = demo_photo(seed)
        found = detect(network, view.pixels, ENTRIES["plants"])
        assert abs(len(found["boxes"]) - len(view.plants)) <= max(1, 0.1 * len(view.plants))
        assert box_iou(torch.from_numpy(view.plants), found["boxes"]).max(dim=1).values.mean() >= 0.7


def test_next_to_nothing_is_found_where_no_plants_are() -> None:
    network = load("plants")
    views = [scene(seed, 480, 640, layout=layout) for layout in ("empty", "nothing") for seed in range(6)]
    found = [len(detect(network, view.pixels, ENTRIES["plants"])["boxes"]) for view in views]
    assert np.median(found) == 0
    assert np.mean(found) < 3


def test_containers_of_demo_photos_are_found_and_named() -> None:
    network, entry = load("containers"), ENTRIES["containers"]
    right = wanted = 0
    for seed in (11, 12, 13, 14):
        view = demo_photo(seed)
        found = detect(network, view.pixels, entry)
        names = [entry["classes"][label - 1] for label in found["labels"].tolist()]
        overlap = box_iou(torch.from_numpy(view.containers), found["boxes"])
        for row, label in enumerate(view.container_labels):
            wanted += 1
            right += any(overlap[row, i] >= 0.7 and names[i] == label for i in range(len(names)))
    assert right >= 0.8 * wanted


def test_sam_turns_a_containers_box_into_its_mask_through_the_stock_predictor() -> None:
    view = demo_photo(11)
    predictor = SamPredictor(load("sam"))
    predictor.set_image(view.pixels)
    overlaps = []
    for index, box in enumerate(view.containers):
        (mask,), _, _ = predictor.predict(box=box, multimask_output=False)
        truth = view.container_masks == index + 1
        overlaps.append((mask & truth).sum() / (mask | truth).sum())
    assert np.mean(overlaps) >= 0.8
