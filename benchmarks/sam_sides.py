"""Two sides that find all masks of a photo, ours and stock's, and how far they agree; for `d_sam.py`."""

from __future__ import annotations

import asyncio
import math
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from torch.nn import functional

from benchmarks.method import Figure, Row, Target
from consumer.local.scenes import demo_photo
from consumer.models.sam import SamRunner
from pipeline_steps.artifacts import Image, Pixels
from pipeline_steps.masks import run_lengths
from pipeline_steps.models import MaskQuality
from pipeline_steps.vision.automatic import Regions, Search, find
from tests.models.sams import OneModel
from tests.pipeline_steps.fakes import context

QUALITY = MaskQuality(0.88, 0.95)
"""Stock's defaults."""
SAME_MASKS = Target(least=0.99)
POINTS = 32
MEMORY = 16 * 2**30
"""More is refused: stock with too large a batch should fail alone, not with the rest of the machine."""


class Size(NamedTuple):
    """A photo, how it is looked at, and what is asked of us."""

    megapixels: int
    height: int
    width: int
    points_per_side: int
    """Of the short run."""
    batches: tuple[int, ...]
    """What stock may choose its `points_per_batch` from: with more, its masks need over 10 GB. At 12
    megapixels 2 is slower than 8, at 48 1 is slower than 4, and to see that every time anew would take
    minutes."""
    blocks: int
    target: float


SIZES = (
    Size(1, 866, 1155, 16, (4, 16, 64), 2, 2.5),
    Size(12, 3000, 4000, 5, (8,), 1, 5.0),
    Size(48, 6000, 8000, 3, (4,), 1, 20.0),
)


def photo(size: Size) -> Pixels:
    """Return a generated scene of that size."""
    height = min(size.height, 1500)
    pixels = demo_photo(7, height, height * size.width // size.height).pixels
    if pixels.shape[:2] == (size.height, size.width):
        return pixels
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    large = functional.interpolate(tensor, (size.height, size.width), mode="bilinear")
    return np.ascontiguousarray(large[0].permute(1, 2, 0).numpy())


def search(
    model: SamRunner, picture: Pixels, per_side: int, quality: MaskQuality = QUALITY, overlap: float = 0.7
) -> Regions:
    """Our automatic mode, up to which masks there are."""
    ctx = context(OneModel(model))  # type: ignore[arg-type]
    return asyncio.run(find("sam", Image(picture), Search(quality, per_side, overlap), ctx))


def ours(model: SamRunner, picture: Pixels, per_side: int, quality: MaskQuality = QUALITY) -> list[str]:
    """Our automatic mode, up to the run lengths."""
    height, width = picture.shape[:2]
    return [run_lengths(mask, width, height) for mask in search(model, picture, per_side, quality).masks()]


def stock(
    network: Sam, picture: Pixels, per_side: int, batch: int, quality: MaskQuality = QUALITY
) -> list[str]:
    """Stock's, likewise."""
    generator = SamAutomaticMaskGenerator(
        network,
        per_side,
        batch,
        pred_iou_thresh=quality.predicted_iou,
        stability_score_thresh=quality.stability,
        output_mode="coco_rle",
    )
    return [str(one["segmentation"]["counts"]) for one in generator.generate(picture)]


def timed(work: Callable[[], Any]) -> float:
    """Return how many seconds it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def fastest(network: Sam, picture: Pixels, batches: Sequence[int]) -> int:
    """Return the `points_per_batch` at which stock is fastest, of points enough to fill the largest."""
    if len(batches) == 1:
        return batches[0]
    per_side = math.ceil(math.sqrt(max(batches)))
    return min(batches, key=lambda batch: timed(partial(stock, network, picture, per_side, batch)))


class Agreement(NamedTuple):
    """How far the masks of two sides agree."""

    masks: int
    """Of both sides together."""
    paired: int
    """Of those, with a partner on the other side: IoU 0.99 or more."""
    identical: int
    """Likewise: run lengths equal."""

    @classmethod
    def of(cls, found: list[str], expected: list[str], size: tuple[int, int]) -> Agreement:
        """Compare two lists of run lengths of a picture of that height and width."""
        same = np.array([[one == other for other in expected] for one in found], np.bool_)
        close = same.copy()
        if close.size:
            sides = [
                [{"size": list(size), "counts": one.encode()} for one in side] for side in (found, expected)
            ]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # numpy's, about how the two use it
                close |= np.asarray(coco.iou(*sides, [0] * len(expected))) >= 0.99
        paired, identical = (
            int(some.any(0).sum() + some.any(1).sum()) if some.size else 0 for some in (close, same)
        )
        return cls(len(found) + len(expected), paired, identical)

    def row(self, what: str, note: str = "") -> Row:
        """Return the row of that; where there is nothing to compare it has no target, and says so."""
        share = self.paired / max(1, self.masks)
        told = f"{self.masks} masks of both sides; run lengths equal: {self.identical}{note}"
        return Row(
            "d",
            f"{what}: share of masks that are the other side's too",
            Figure(share, share, share),
            SAME_MASKS if self.masks else None,
            note=told if self.masks else f"neither side found a mask: nothing to compare{note}",
        )
