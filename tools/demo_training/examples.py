"""Pictures for the small SAM, with the true outlines of their plants and containers."""

import multiprocessing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consumer.local.scenes import demo_photo, scene

SIDE = 256


@dataclass(frozen=True, slots=True)
class Example:
    """A picture of SAM's own size and maps of its plants and containers, 0 where there is none."""

    pixels: NDArray[np.uint8]
    maps: NDArray[np.uint16]


def example(seed: int) -> Example:
    """A square training picture: a wild scene, or a demo photo, whole or cut to one of its containers."""
    lot = seed % 5
    if lot < 3:
        shape = ((SIDE, SIDE), (SIDE * 3 // 4, SIDE), (SIDE, SIDE * 3 // 4))[lot]
        pitch = float(np.exp(np.random.default_rng((seed, 4)).uniform(np.log(45), np.log(160))))
        view = scene(seed, *shape, pitch=pitch)
        return _shrunk(view.pixels, view.plant_masks, view.container_masks)
    photo = demo_photo(seed, 480, 640)
    if lot == 4 and len(photo.containers):
        left, top, right, bottom = (int(v) for v in photo.containers[seed % len(photo.containers)])
        part = np.s_[max(0, top - 12) : bottom + 12, max(0, left - 12) : right + 12]
        return _shrunk(photo.pixels[part], photo.plant_masks[part], photo.container_masks[part])
    return _shrunk(photo.pixels, photo.plant_masks, photo.container_masks)


def _shrunk(pixels: NDArray[np.uint8], plants: NDArray[np.int32], containers: NDArray[np.int32]) -> Example:
    """Longer side to `SIDE`, the rest left empty, as `Sam.preprocess` does it."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    full = Example(np.zeros((SIDE, SIDE, 3), dtype=np.uint8), np.zeros((2, SIDE, SIDE), dtype=np.uint16))
    full.pixels[: size[1], : size[0]] = np.asarray(
        Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    )
    for index, found in enumerate((plants, containers)):
        small = Image.fromarray(found.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
        full.maps[index, : size[1], : size[0]] = np.asarray(small)
    return full


def make_examples(count: int, seed: int, workers: int = 2) -> list[Example]:
    """Draw examples with all workers."""
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        return list(processes.imap(example, range(seed, seed + count), chunksize=20))
