"""Training and measuring the classifier of plant kinds, on crops as a detector would cut them."""

import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from consumer.local.scene_plants import PLANT_KINDS
from consumer.local.scenes import demo_photo, scene
from consumer.models.architectures import IMAGENET_MEAN, IMAGENET_STD, small_classifier
from tools.demo_training.loop import load_part, train

SIDE = 64
AROUND = 80  # crops are kept with a rim, from which boxes that are a little off are cut
LEAST = 24  # pixels: on less the kinds cannot be told apart


@dataclass(frozen=True, slots=True)
class Crops:
    """Crops of single plants with a rim of an eighth: uint8 (n, AROUND, AROUND, 3), and their kinds (n,)."""

    pixels: NDArray[np.uint8]
    kinds: NDArray[np.int64]


def crops_of(seed: int) -> Crops:
    """Some plants of one scene; the rarer kind comes first, so that mixtures teach more than one."""
    rng = np.random.default_rng((seed, 3))
    if seed % 3 == 0:
        view = demo_photo(seed, 720, 960)
    else:
        layout = "loose" if seed % 6 == 1 else "containers"
        view = scene(seed, layout=layout, pitch=float(rng.uniform(40, 160)))
    height, width = view.pixels.shape[:2]
    usable = [
        i
        for i, (x1, y1, x2, y2) in enumerate(view.plants)
        if min(x2 - x1, y2 - y1) >= LEAST and x1 > 1 and y1 > 1 and x2 < width - 1 and y2 < height - 1
    ]
    rng.shuffle(usable)
    picture = Image.fromarray(view.pixels)
    pixels = []
    for i in usable[:8]:
        x1, y1, x2, y2 = (float(v) for v in view.plants[i])
        rim_x, rim_y = (x2 - x1) / 8, (y2 - y1) / 8
        area = (x1 - rim_x, y1 - rim_y, x2 + rim_x, y2 + rim_y)
        crop = picture.transform((AROUND, AROUND), Image.Transform.EXTENT, area, Image.Resampling.BILINEAR)
        pixels.append(np.asarray(crop))
    kinds = [PLANT_KINDS.index(view.plant_kinds[i]) for i in usable[:8]]
    return Crops(
        np.array(pixels, dtype=np.uint8).reshape(-1, AROUND, AROUND, 3), np.array(kinds, dtype=np.int64)
    )


def make_crops(scenes: int, seed: int, workers: int = 2) -> Crops:
    """Crops of many scenes, drawn with all workers."""
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        found = list(processes.imap(crops_of, range(seed, seed + scenes), chunksize=20))
    return Crops(np.concatenate([f.pixels for f in found]), np.concatenate([f.kinds for f in found]))


def normalised(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 (n, h, w, 3) to what the classifier takes."""
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
    return (images - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]


def train_classifier(
    crops: Crops, seconds: float, seed: int, trunk: Path | None, checkpoint: Path | None, rate: float = 1.5e-3
) -> nn.Module:
    """Train the classifier, its trunk starting from the plant detector's; kinds are drawn equally often."""
    torch.manual_seed(seed)
    network = small_classifier(len(PLANT_KINDS)).to(memory_format=torch.channels_last)
    if trunk:
        load_part(network, trunk, "backbone.body.")
    rng = np.random.default_rng(seed)
    counts = np.bincount(crops.kinds, minlength=len(PLANT_KINDS))
    weights = 1.0 / np.maximum(counts, 1)[crops.kinds]
    weights /= weights.sum()

    def loss(current: nn.Module, done: float) -> Tensor:
        del done
        chosen = rng.choice(len(weights), 64, p=weights)
        images = []
        for index in chosen:
            picture = crops.pixels[index]
            edge = rng.integers(0, 17, 4)  # the true box lies 8 pixels inside
            part = picture[edge[0] : AROUND - edge[1], edge[2] : AROUND - edge[3]]
            turned = np.rot90(part, int(rng.integers(4)))[:, :: int(rng.choice((-1, 1)))]
            images.append(np.asarray(Image.fromarray(turned).resize((SIDE, SIDE), Image.Resampling.BILINEAR)))
        pictures = normalised(np.stack(images)).contiguous(memory_format=torch.channels_last)
        return functional.cross_entropy(
            current(pictures), torch.from_numpy(crops.kinds[chosen]), label_smoothing=0.05
        )

    return train("species", network, loss, seconds, rate, checkpoint)


@torch.inference_mode()
def measure_classifier(network: nn.Module, crops: Crops) -> dict[str, float]:
    """Accuracy on unseen crops cut by the true box: of all, and the mean over kinds."""
    rim = AROUND // 10
    inner = crops.pixels[:, rim : AROUND - rim, rim : AROUND - rim]
    guesses = torch.cat(
        [network(normalised(inner[i : i + 256])).argmax(1) for i in range(0, len(inner), 256)]
    ).numpy()
    right = guesses == crops.kinds
    by_kind = {
        f"accuracy_{name}": float(right[crops.kinds == k].mean())
        for k, name in enumerate(PLANT_KINDS)
        if (crops.kinds == k).any()
    }
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean(list(by_kind.values()))),
        **by_kind,
    }
