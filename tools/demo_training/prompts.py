"""What the small SAM is asked during training, and how it is told."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# Plants, containers; pixels of 256 x 256: what is smaller is no shape at the masks' resolution.
LEAST_AREAS = (144, 400)


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts for a square picture or a square part of one, with the masks they ask for.

    Attributes:
        masks: bool (n, side, side).
        boxes: float32 (n, 4).
        points: float32 (n, k, 2).
        kinds: int64 (n, k); 1 in the object, 0 beside it, -1 none.
    """

    masks: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    points: NDArray[np.float32]
    kinds: NDArray[np.int64]


def prompts(
    rng: np.random.Generator,
    maps: NDArray[np.uint16],
    count: int,
    layers: tuple[int, ...] = (0, 1),
    loose: float = 0.08,
) -> Prompts | None:
    """Choose objects and prompt for each with a loose box and with points.

    A point for a container lies where no plant is: there it would mean the plant.

    Args:
        rng: Source of randomness.
        maps: Of one picture: plants and containers, (2, side, side).
        count: Number of prompts; an object may be asked for more than once.
        layers: 0 for plants, 1 for containers; as many from each entry that has any.
        loose: Greatest displacement of a box's side, as a part of its length.

    Returns:
        The prompts, or none if the picture has nothing large enough.
    """
    objects = []
    for layer in layers:
        areas = np.bincount(maps[layer].ravel())
        large = [(layer, int(key)) for key in np.flatnonzero(areas >= LEAST_AREAS[layer]) if key]
        if large:
            objects.append(large)
    if not objects:
        return None
    chosen = []
    for _ in range(count):
        among = objects[int(rng.integers(len(objects)))]
        chosen.append(among[int(rng.integers(len(among)))])
    masks, boxes, points, kinds = [], [], [], []
    for layer, key in chosen:
        mask = maps[layer] == key
        ys, xs = np.nonzero(mask)
        box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=np.float32)
        spread = np.array([box[2] - box[0], box[3] - box[1]] * 2)
        inside = mask & (maps[0] == 0) if layer == 1 else mask
        ys, xs = np.nonzero(inside) if inside.any() else (ys, xs)
        pick = rng.integers(len(xs), size=2)
        outside = rng.uniform(0, len(mask), 2)
        beside = not mask[int(outside[1]), int(outside[0])]
        masks.append(mask)
        boxes.append(box + rng.normal(0, loose / 2, 4).clip(-loose, loose) * spread)
        points.append([(xs[pick[0]], ys[pick[0]]), (xs[pick[1]], ys[pick[1]]), tuple(outside)])
        kinds.append((1, 1, 0 if beside else -1))
    return Prompts(
        np.stack(masks),
        np.array(boxes, dtype=np.float32),
        np.array(points, dtype=np.float32) + 0.5,
        np.array(kinds),
    )


def encoded(network: nn.Module, asked: Prompts, how: str) -> Tensor:
    """Return prompts as SAM's decoder takes them, (n, tokens, channels).

    Args:
        network: A SAM.
        asked: What is prompted for.
        how: `box`, `point`, `points` (two in the object and one beside it) or `both` (a box and a point).
    """
    points = None
    if how != "box":
        used = 3 if how == "points" else 1
        points = (torch.from_numpy(asked.points[:, :used]), torch.from_numpy(asked.kinds[:, :used]))
    boxes = torch.from_numpy(asked.boxes) if how in ("box", "both") else None
    with torch.autocast("cpu", enabled=False):  # positions need their last bits
        sparse: Tensor = network.prompt_encoder(points=points, boxes=boxes, masks=None)[0]
    return sparse
