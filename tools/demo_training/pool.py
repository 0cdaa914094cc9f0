"""Generated scenes, made once by all cores and kept in memory-mapped files.

Drawing a scene takes about as long as learning from it, so that every scene is looked at several times, each
time changed (`augmented`): mirrored, turned by quarters, scaled, in other colours.
"""

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from consumer.local.scene_objects import CONTAINER_LABELS
from consumer.local.scenes import Scene, demo_photo, scene

# The demo and the tests use small seeds. Training starts here, evaluation there, and they never meet.
TRAINING_SEEDS = 1_000_000_000
UNSEEN_SEEDS = 2_000_000_000
LEAST_SIDE = 4.0
OF_PHOTOS = 3
"""How many of ten tiles come from demo photos; the others are wild scenes."""
PHOTO_TILES = 3
"""How many tiles one demo photo gives."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Boxes of one picture: float32 (n, 4) with int64 classes from 1."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pool:
    """Square tiles with the truth for plants and for containers."""

    pixels: NDArray[np.uint8]
    plants: list[Truth]
    containers: list[Truth]


def cut(
    pixels: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    window: tuple[int, int, int, int],
) -> tuple[NDArray[np.uint8], Truth]:
    """Cut a window out; boxes of which less than a quarter remains are gone."""
    left, top, right, bottom = window
    inside = boxes.copy()
    inside[:, 0::2] = inside[:, 0::2].clip(left, right) - left
    inside[:, 1::2] = inside[:, 1::2].clip(top, bottom) - top
    area = (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
    whole = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    short = np.minimum(inside[:, 2] - inside[:, 0], inside[:, 3] - inside[:, 1])
    kept = (area > 0.25 * whole) & (short >= LEAST_SIDE)
    return pixels[top:bottom, left:right], Truth(inside[kept], labels[kept])


def truths(view: Scene) -> tuple[Truth, Truth]:
    """What a plant detector and a container detector should find."""
    kinds = np.array([1 + CONTAINER_LABELS.index(c) for c in view.container_labels], dtype=np.int64)
    return Truth(view.plants, np.ones(len(view.plants), dtype=np.int64)), Truth(view.containers, kinds)


def resized(view: Scene, longer: int) -> tuple[NDArray[np.uint8], list[Truth]]:
    """A scene with its longer side at `longer` pixels, as the worker shows it to a detector."""
    height, width = view.pixels.shape[:2]
    scale = longer / max(height, width)
    size = (round(width * scale), round(height * scale))
    small = np.asarray(Image.fromarray(view.pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
    return small, [Truth((t.boxes * scale).astype(np.float32), t.labels) for t in truths(view)]


@lru_cache(maxsize=1)
def _photo(seed: int) -> Scene:
    """A demo photo; every second one with more that is no plant, on any ground, which teaches the most."""
    if seed // PHOTO_TILES % 2 == 0:
        return demo_photo(seed, 720, 960)
    return demo_photo(seed, 720, 960, more_things=2 + seed // 10 % 7, odd=0.5)


def tile(seed: int, side: int, of_photos: int = OF_PHOTOS) -> tuple[NDArray[np.uint8], Truth, Truth]:
    """One training tile: mostly a wild scene, else a part of a demo photo, or a whole one made small."""
    lot = seed % 10
    if lot >= of_photos:
        view = scene(seed, side, side)
        plants, containers = truths(view)
        return view.pixels, plants, containers
    rng = np.random.default_rng((seed, 2))
    photo = _photo(seed - lot % PHOTO_TILES)  # its neighbours come from the same one
    if lot > 0:
        pixels, (plants, containers) = resized(photo, int(2 * side * rng.uniform(0.8, 1.4)))
        left, top = (int(rng.integers(0, n - side + 1)) for n in (pixels.shape[1], pixels.shape[0]))
        window = (left, top, left + side, top + side)
        part, plants = cut(pixels, plants.boxes, plants.labels, window)
        return part, plants, cut(pixels, containers.boxes, containers.labels, window)[1]
    pixels, (plants, containers) = resized(photo, side)
    full = np.full((side, side, 3), 114, dtype=np.uint8)
    full[: pixels.shape[0], : pixels.shape[1]] = pixels
    return full, plants, containers


def _fill(task: tuple[Path, int, int, int, int, int, int]) -> list[tuple[int, Truth, Truth]]:
    path, count, side, first, last, seed, of_photos = task
    pixels = np.lib.format.open_memmap(path, mode="r+", shape=(count, side, side, 3))
    answers = []
    for index in range(first, last):
        pixels[index], plants, containers = tile(seed + index, side, of_photos)
        answers.append((index, plants, containers))
    return answers


def make_pool(
    folder: Path, count: int, side: int, seed: int, workers: int = 2, of_photos: int = OF_PHOTOS
) -> Pool:
    """Draw `count` tiles with all workers.

    Args:
        folder: Where the pixels are kept; reused by whoever holds the pool.
        count: Number of tiles.
        side: Their side in pixels.
        seed: Seed of the first; the others follow.
        workers: Processes.
        of_photos: How many of ten tiles come from demo photos.
    """
    path = folder / f"tiles-{seed}-{count}-{side}.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, side, side, 3)).flush()
    tasks = [
        (path, count, side, start, min(count, start + 50), seed, of_photos) for start in range(0, count, 50)
    ]
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        found = sorted(
            (row for rows in processes.imap_unordered(_fill, tasks) for row in rows), key=lambda row: row[0]
        )
    pixels = np.load(path, mmap_mode="r")
    return Pool(pixels, [row[1] for row in found], [row[2] for row in found])


def batches(pool: Pool, which: str, size: int, seed: int) -> Iterator[tuple[Tensor, list[dict[str, Tensor]]]]:
    """Endless augmented batches: float images (size, 3, s, s) in 0..1 and torchvision's targets."""
    rng = np.random.default_rng(seed)
    targets: list[Truth] = getattr(pool, which)
    order = rng.permutation(len(targets))
    at = 0
    while True:
        if at + size > len(order):
            order, at = rng.permutation(len(targets)), 0
        chosen = order[at : at + size]
        at += size
        yield augmented(rng, [(pool.pixels[i], targets[i]) for i in chosen])


def augmented(
    rng: np.random.Generator, examples: list[tuple[NDArray[np.uint8], Truth]]
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Change tiles in ways that leave the truth known; one scale for the whole batch."""
    side = examples[0][0].shape[0]
    images, targets = [], []
    for pixels, truth in examples:
        image, boxes = np.asarray(pixels), truth.boxes.copy()
        if rng.random() < 0.5:
            image, boxes = (
                image[:, ::-1],
                boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1]) + np.array([side, 0, side, 0]),
            )
        if rng.random() < 0.5:
            image, boxes = (
                image[::-1],
                boxes[:, [0, 3, 2, 1]] * np.array([1, -1, 1, -1]) + np.array([0, side, 0, side]),
            )
        if rng.random() < 0.5:
            image, boxes = image.transpose(1, 0, 2), boxes[:, [1, 0, 3, 2]]
        light = torch.tensor(
            np.exp(rng.normal(0, 0.08, 3)) * np.exp(rng.normal(0, 0.12)), dtype=torch.float32
        )
        tinted = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 * light[:, None, None]
        images.append(tinted.clamp_(0, 1))
        targets.append(
            {
                "boxes": torch.from_numpy(np.ascontiguousarray(boxes, dtype=np.float32)),
                "labels": torch.from_numpy(truth.labels),
            }
        )
    batch = torch.stack(images)
    wanted = int(rng.choice((224, 256, 288, 320, 320, 352, 416))) * side // 320 // 32 * 32
    if wanted != side:
        batch = interpolate(batch, (wanted, wanted), mode="bilinear", antialias=wanted < side)
        for target in targets:
            boxes = target["boxes"] * (wanted / side)
            kept = (
                (boxes[:, 2:] - boxes[:, :2]).min(dim=1).values >= LEAST_SIDE
                if len(boxes)
                else torch.zeros(0, dtype=torch.bool)
            )
            target["boxes"], target["labels"] = boxes[kept], target["labels"][kept]
    return batch, targets
