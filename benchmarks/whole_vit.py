"""ViT-B from beginning to end, by both sides, once, in nearly two hours: see `d_sam.py`, which starts it.

There is no trained ViT-B here, and random weights give noise for masks, which no photo has. So both sides
compute all that a ViT-B computes, and are then told other answers: where its decoder has given the masks of a
point and their estimated quality, those that the small SAM gives for this point of this photo take their
place, enlarged to the 256 x 256 cells of a ViT-B. Filters, shapes of masks and everything after them are
those of a trained network, and both sides must end with the same masks.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils import amg
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.method import Figure, Row, Target, progress
from benchmarks.sam_sides import POINTS, Agreement, Size, ours, photo, stock, timed
from benchmarks.sam_stages import BATCH, large_model
from consumer.models.sam.decoder import Decoder, Look, Understood
from pipeline_steps.artifacts import Pixels
from tests.models.sams import runner, sam

CELLS = 256
"""Side of a mask of ViT-B's decoder."""


@dataclasses.dataclass
class Answers:
    """What the decoders are told to say, point by point in the grid's order, again and again."""

    logits: Tensor
    """(points, 3, 256, 256), in half precision: it is a gigabyte otherwise."""
    quality: Tensor
    """(points, 3)"""
    asked: int = 0

    def following(self, count: int) -> Tensor:
        """Return the numbers of the next points."""
        numbers = torch.arange(self.asked, self.asked + count) % len(self.quality)
        self.asked += count
        return numbers


def answers(picture: Pixels) -> Answers:
    """Return what the small SAM says of every point."""
    network = sam("shipped")
    predictor = SamPredictor(network)
    predictor.set_image(picture)
    points = torch.from_numpy(amg.build_point_grid(POINTS) * np.array(predictor.input_size[::-1])).float()
    logits, quality = [], []
    for part in points.split(BATCH):
        # Not by the predictor: it would enlarge the masks to the photo's size.
        prompts, dense = network.prompt_encoder((part[:, None], torch.ones(len(part), 1)), None, None)
        positions = network.prompt_encoder.get_dense_pe()
        masks, scores = network.mask_decoder(predictor.features, positions, prompts, dense, True)
        logits.append(functional.interpolate(masks, (CELLS, CELLS), mode="bicubic").half())
        quality.append(scores)
    return Answers(torch.cat(logits), torch.cat(quality))


class ToldStock(nn.Module):
    """Stock's decoder: it computes, and says what it is told."""

    def __init__(self, decoder: nn.Module, told: Answers) -> None:
        super().__init__()
        self.decoder, self.told = decoder, told

    def forward(self, **asked: Any) -> tuple[Tensor, Tensor]:
        """Answer as `MaskDecoder.forward`."""
        self.decoder(**asked)
        numbers = self.told.following(len(asked["sparse_prompt_embeddings"]))
        return self.told.logits[numbers].float(), self.told.quality[numbers]


class ToldOurs:
    """Our decoder: likewise."""

    def __init__(self, decoder: Decoder, told: Answers) -> None:
        self._decoder, self._told = decoder, told
        self._numbers = told.following(0)

    def look(self, features: Tensor) -> Look:
        """Answer as `Decoder.look`."""
        return self._decoder.look(features)

    def understand(self, look: Look, prompts: Tensor) -> Understood:
        """Answer as `Decoder.understand`."""
        understood = self._decoder.understand(look, prompts)
        self._numbers = self._told.following(len(prompts))
        return dataclasses.replace(understood, scores=self._told.quality[self._numbers])

    def paint(self, understood: Understood, prompts: Tensor, masks: Tensor) -> Tensor:
        """Answer as `Decoder.paint`."""
        self._decoder.paint(understood, prompts, masks)
        return self._told.logits[self._numbers[prompts], masks].float()


def fastest_batch(network: Sam, megapixels: int) -> int:
    """Return the `points_per_batch` at which stock decodes fastest, of those its masks leave room for."""
    features = torch.rand(1, 256, 64, 64)
    points = torch.rand(BATCH, 1, 2) * network.image_encoder.img_size

    def decode(batch: int) -> None:
        for part in points.split(batch):
            prompts, dense = network.prompt_encoder((part, torch.ones(len(part), 1)), None, None)
            network.mask_decoder(features, network.prompt_encoder.get_dense_pe(), prompts, dense, True)

    allowed = (2, 4, 64) if megapixels == 1 else (2, 4)
    return min(allowed, key=lambda batch: timed(partial(decode, batch)))


def whole(size: Size, per_side: int = POINTS) -> list[Row]:
    """Let both sides find all masks of a photo, once, and compare time and masks."""
    picture, network = photo(size), large_model()
    told = answers(picture)
    batch = fastest_batch(network, size.megapixels)
    model = runner(network)
    model._decoder = ToldOurs(model._decoder, told)  # type: ignore[assignment]  # noqa: SLF001
    mine, our_seconds = _once("ours", partial(ours, model, picture, per_side))
    told.asked = 0
    network.mask_decoder = ToldStock(network.mask_decoder, told)
    theirs, stock_seconds = _once("stock", partial(stock, network, picture, per_side, batch))
    value = stock_seconds / our_seconds
    what = f"ViT-B at {size.megapixels} MP, {per_side} x {per_side} points"
    return [
        Row(
            "d",
            f"{what}: times as fast as stock (whole)",
            Figure(value, value, value),
            Target(least=size.target),
            peers={"stock, s": stock_seconds, "ours, s": our_seconds},
            note=f"once; stock's points_per_batch {batch}",
        ),
        Agreement.of(mine, theirs, picture.shape[:2]).row(f"{what} (whole)"),
    ]


def _once(side: str, work: Callable[[], list[str]]) -> tuple[list[str], float]:
    progress(f"ViT-B whole: {side} ...")
    began = time.perf_counter()
    found = work()
    return found, time.perf_counter() - began
