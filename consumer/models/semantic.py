"""Runs torchvision's semantic networks: LR-ASPP, DeepLabV3, FCN."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from consumer.models.architectures import IMAGENET_MEAN, IMAGENET_STD
from consumer.models.pixels import Shown, normalised, of_bytes, padded, shrunk
from consumer.models.runner import batch_sizes
from pipeline_steps.artifacts import Pixels
from pipeline_steps.models import ModelSpec

_STRIP_BYTES = 64 << 20
"""Logits are stretched to the picture's own size in strips of at most this: 21 classes at 48 MP are 4 GB."""


class SemanticRunner:
    """A network from pictures normalised as ImageNet to `{"out": logits (n, 1 + classes, h, w)}`.

    Channel 0 is the background. Pictures are shrunk until the longer side is the model's input size, never
    enlarged.

    Args:
        model: the network, on its device.
        spec: what the manifest says of it.
        device: where it is.
        max_batch: most pictures in one forward pass.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec, device: torch.device, max_batch: int) -> None:
        self._model = model
        self._spec = spec
        self._max_batch = max_batch
        self._mean, self._std = of_bytes(IMAGENET_MEAN, device), of_bytes(IMAGENET_STD, device)

    def costly(self, item: Pixels) -> bool:
        """Only where it must be shrunk."""
        return bool(max(item.shape[:2]) > self._spec.input_size)

    def prepare(self, item: Pixels) -> Shown:
        """Shrink the picture to what the model is shown."""
        return shrunk(item, self._spec.input_size)

    def bucket(self, ready: Shown) -> Hashable:
        """The shape it is padded to."""
        _, height, width = ready.image.shape
        return padded(height), padded(width)

    def max_batch(self, bucket: Hashable) -> int:
        """As the manifest says."""
        del bucket
        return self._max_batch

    def run(self, batch: Sequence[Shown]) -> list[npt.NDArray[np.int16]]:
        """Return each picture's class per pixel, at its own size; -1 is background."""
        height, width = (padded(max(shown.image.shape[side] for shown in batch)) for side in (1, 2))
        images = [shown.image for shown in batch]
        logits = self._model(normalised(images, height, width, self._mean, self._std))["out"]
        return [
            label_map(
                row[:, : shown.image.shape[1], : shown.image.shape[2]].float(), shown.height, shown.width
            )
            for row, shown in zip(logits, batch, strict=True)
        ]

    def warm_up(self) -> None:
        """Answer grey squares of the model's input size."""
        grey = self.prepare(np.full((self._spec.input_size, self._spec.input_size, 3), 128, np.uint8))
        for size in batch_sizes(self._max_batch):
            self.run([grey] * size)


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
