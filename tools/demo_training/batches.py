"""Batches for the small SAM: whole pictures, or more of their parts with more prompts for the same time."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tools.demo_training.examples import SIDE, Example
from tools.demo_training.extents import PLACE, reaches
from tools.demo_training.prompts import Prompts, prompts


@dataclass(frozen=True, slots=True)
class View:
    """What a batch shows and asks.

    Attributes:
        pictures: How many.
        prompts: How many for each of them.
        side: Of the part that is shown, pixels.
        layers: 0 if plants are asked for, 1 if containers are; what stands there twice, twice as often.
    """

    pictures: int
    prompts: int
    side: int
    layers: tuple[int, ...]


# With six prompts a picture, more steps teach more than larger batches. Plants have the parts besides.
WHOLE = View(5, 6, SIDE, (0, 1, 1))
# A part has a quarter of the places, and as many plants' outlines to learn as there are prompts. No
# containers: of most of them it shows only a piece.
NEAR = View(8, 10, SIDE // 2, (0,))


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Parts of pictures, with prompts for each.

    Attributes:
        pictures: float32 (n, 3, side, side), RGB in 0..255.
        asked: n, in coordinates of the whole square that SAM sees.
        present: see `Extents.loss`.
        reach: likewise.
        top: Row of the embedding at which the parts are to be thought.
        left: Column likewise.
    """

    pictures: Tensor
    asked: list[Prompts]
    present: Tensor
    reach: Tensor
    top: int
    left: int


def batches(examples: list[Example], view: View, seed: int) -> Iterator[Batch]:
    """Endless batches; a part of a picture may stand anywhere in the square, so that all places learn."""
    rng = np.random.default_rng(seed)
    while True:
        # By halves of a part, so that windows of attention lie where they lie in a whole picture.
        top, left = (
            int(v) * view.side // 2 for v in rng.integers((SIDE - view.side) * 2 // view.side + 1, size=2)
        )
        pictures, asked, extents = [], [], []
        while len(asked) < view.pictures:
            chosen = examples[int(rng.integers(len(examples)))]
            y, x = (int(v) for v in rng.integers(SIDE - view.side + 1, size=2))
            part = np.s_[y : y + view.side, x : x + view.side]
            pixels, maps = chosen.pixels[part], chosen.maps[:, *part]
            if rng.random() < 0.5:
                pixels, maps = pixels.transpose(1, 0, 2), maps.transpose(0, 2, 1)
            found = prompts(rng, maps, view.prompts, view.layers)
            if found is None:
                continue
            light = np.exp(rng.normal(0, 0.08, 3)) * np.exp(rng.normal(0, 0.12))
            lit = (pixels * light).clip(0, 255).astype(np.float32)
            pictures.append(torch.from_numpy(lit).permute(2, 0, 1))
            asked.append(_moved(found, top, left))
            extents.append(reaches(maps))
        present, reach = (torch.stack(which) for which in zip(*extents, strict=True))
        yield Batch(torch.stack(pictures), asked, present, reach, top // PLACE, left // PLACE)


def _moved(asked: Prompts, top: int, left: int) -> Prompts:
    """Prompts for a part whose corner stands at (left, top) of the square."""
    by = np.array([left, top], dtype=np.float32)
    return replace(asked, boxes=asked.boxes + np.tile(by, 2), points=asked.points + by)
