"""Runs torchvision's semantic networks: LR-ASPP, DeepLabV3, FCN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from consumer.models.picture_runner import ImageNetRunner
from consumer.models.pixels import Shown, padded

_STRIP_BYTES = 64 << 20
"""Logits are stretched to the picture's own size in strips of at most this: 21 classes at 48 MP are 4 GB."""


class SemanticRunner(ImageNetRunner[npt.NDArray[np.int16]]):
    """A network from pictures normalised as ImageNet to `{"out": logits (n, 1 + classes, h, w)}`.

    Channel 0 is the background.
    """

    def run(self, batch: Sequence[Shown]) -> list[npt.NDArray[np.int16]]:
        """Return each picture's class per pixel, at its own size; -1 is background."""
        height, width = (padded(max(shown.image.shape[side] for shown in batch)) for side in (1, 2))
        logits = self._model(self._normalised(batch, height, width))["out"]
        return [
            label_map(
                row[:, : shown.image.shape[1], : shown.image.shape[2]].float(), shown.height, shown.width
            )
            for row, shown in zip(logits, batch, strict=True)
        ]


def label_map(logits: Tensor, height: int, width: int) -> npt.NDArray[np.int16]:
    """Return the strongest class of each pixel, (height, width), the background as -1.

    The logits (1 + classes, h, w) are stretched as `interpolate(mode="bilinear")` stretches them, strip by
    strip, so that the edges between classes are smooth at the picture's own size.
    """
    channels, rows, columns = logits.shape
    labels = np.empty((height, width), np.int16)
    strip = max(1, _STRIP_BYTES // (4 * channels * width))
    left, right, across = _taps(columns, width, logits.device)
    above, below, down = _taps(rows, height, logits.device)
    for start in range(0, height, strip):
        part = slice(start, start + strip)
        lines = torch.lerp(logits[:, above[part]], logits[:, below[part]], down[part, None])
        pixels = torch.lerp(lines[:, :, left], lines[:, :, right], across)
        labels[part] = (pixels.argmax(0) - 1).to(torch.int16).cpu().numpy()
    return labels


def _taps(cells: int, pixels: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each pixel of an axis the two cells it mixes, and the share of the second."""
    at = ((torch.arange(pixels, device=device) + 0.5) * (cells / pixels) - 0.5).clamp(min=0)
    first = at.long()
    return first, (first + 1).clamp(max=cells - 1), at - first
