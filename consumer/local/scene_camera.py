"""The camera of the generated scenes: from where it looks, what it can see, what its pictures suffer from."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from consumer.local.scene_grounds import noise


@dataclass(frozen=True, slots=True)
class View:
    """Where the camera stands.

    Attributes:
        corners: float64 (4, 2): which places of the flat canvas are the photo's corners, clockwise from the
            top left.
        canvas: Height and width of the canvas that all of them lie on.
        photo: Height and width of the photo.
        wild: Whether light and sensor are as bad as they get; the demo's camera is a good one.
    """

    corners: NDArray[np.float64]
    canvas: tuple[int, int]
    photo: tuple[int, int]
    wild: bool

    def photograph(self, picture: Image.Image, how: Image.Resampling) -> Image.Image:
        """What the camera sees of a canvas."""
        height, width = self.photo
        mapping = _perspective(height, width, self.corners)
        return picture.transform((width, height), Image.Transform.PERSPECTIVE, mapping, how)


def view(rng: np.random.Generator, height: int, width: int, *, wild: bool) -> View:
    """Place a camera: straight above, a little turned and tilted; a wild one anyhow, also from the side."""
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)
    lot = rng.random() if wild else 0.5
    turn, jitter = np.deg2rad(rng.normal(0, 3.5)), 0.05 if wild else 0.02
    if lot > 0.8:
        turn = rng.uniform(0, 2 * np.pi)
    elif lot < 0.3:
        turn, jitter = 0.0, 0.0
    rotate = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    seen: NDArray[np.float64] = (corners - corners.mean(axis=0)) @ rotate.T
    if 0.55 < lot < 0.8:
        seen[:2, 0] *= rng.uniform(1.1, 1.6)  # from the side: what is far looks smaller
        seen[:, 1] *= rng.uniform(1.0, 1.4)
    seen += rng.uniform(-jitter, jitter, (4, 2)) * min(height, width)
    seen -= seen.min(axis=0)
    wide, tall = (int(v) for v in np.ceil(seen.max(axis=0)))
    return View(seen, (tall, wide), (height, width), wild)


def _perspective(height: int, width: int, corners: NDArray[np.float64]) -> tuple[float, ...]:
    """The eight numbers by which Pillow maps a pixel of the photo to its place on the canvas."""
    rows, wanted = [], []
    for (x, y), (u, v) in zip(((0, 0), (width, 0), (width, height), (0, height)), corners, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
        wanted += [u, v]
    return tuple(float(c) for c in np.linalg.solve(np.array(rows), np.array(wanted)))


@dataclass(frozen=True, slots=True)
class Visible:
    """The instances of a map that can be seen well enough.

    Attributes:
        map: int32 (h, w); i + 1 is row i of `boxes`.
        boxes: float32 (n, 4), tight around what is seen.
        ids: The n numbers they had before.
    """

    map: NDArray[np.int32]
    boxes: NDArray[np.float32]
    ids: tuple[int, ...]


def visible(found: NDArray[np.int32], least: NDArray[np.float64], least_side: float) -> Visible:
    """Box and renumber the instances of a map.

    Args:
        found: int32 (h, w), 0 is none.
        least: Area in pixels that an instance must exceed, by its number.
        least_side: Shortest side of a box that counts, pixels.
    """
    ys, xs = np.nonzero(found)
    ids = found[ys, xs]
    count = len(least)
    low = np.full((2, count), 1 << 30)
    high = np.full((2, count), -1)
    for axis, values in enumerate((xs, ys)):
        np.minimum.at(low[axis], ids, values)
        np.maximum.at(high[axis], ids, values + 1)
    seen = np.bincount(ids, minlength=count) > least
    kept = np.flatnonzero(seen & ((high - low).min(axis=0) >= least_side))
    renumber = np.zeros(count, dtype=np.int32)
    renumber[kept] = np.arange(1, len(kept) + 1)
    boxes = np.stack([low[0], low[1], high[0], high[1]], axis=1)[kept].astype(np.float32)
    return Visible(renumber[found], boxes.reshape(-1, 4), tuple(int(k) for k in kept))


def expose(rng: np.random.Generator, picture: Image.Image, *, wild: bool) -> NDArray[np.uint8]:
    """Light, lens, sensor and compression."""
    wide, tall = picture.size
    strength = 1.0 if wild else 0.3
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.6) * (1.0 if wild else 0.6)))
    pixels: NDArray[np.float32] = np.asarray(picture).astype(np.float32)
    light = 1 + rng.uniform(0, 0.18) * strength * noise(rng, tall, wide, max(tall, wide) // 2)
    if rng.random() < 0.25 * strength:  # a hard shadow falls across
        slope = np.arange(wide)[None] * rng.normal(0, 1) + np.arange(tall)[:, None] * rng.normal(0, 1)
        edge = (slope - rng.uniform(slope.min(), slope.max())) / rng.uniform(2, 30)
        light = light * (1 - rng.uniform(0.2, 0.6) / (1 + np.exp(-np.clip(edge, -30, 30))))
    cast = np.exp(rng.normal(0, 0.13 * strength, 3)) * np.exp(rng.normal(0.05, 0.28 * strength))
    pixels *= (light[..., None] * cast).astype(np.float32)
    contrast = np.exp(rng.normal(0, 0.18 * strength))
    pixels = (pixels - 110) * np.float32(contrast) + np.float32(110 + rng.normal(0, 14) * strength)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * np.float32(np.exp(rng.normal(0, 0.25 * strength)))
    grain = rng.standard_normal((tall, wide, 1), dtype=np.float32) * np.float32(
        abs(rng.normal(0, 8 * strength))
    )
    exposed = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    if wild and rng.random() < 0.35:
        stored = io.BytesIO()
        Image.fromarray(exposed).save(stored, "JPEG", quality=int(rng.integers(25, 90)))
        return np.array(Image.open(stored).convert("RGB"), dtype=np.uint8)
    return exposed
