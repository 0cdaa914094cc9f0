"""Runs classifiers: ours, torchvision's, and TorchScript archives of the same form."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from consumer.models.architectures import IMAGENET_MEAN, IMAGENET_STD
from consumer.models.pixels import Shown, normalised, of_bytes, pixels_at
from consumer.models.runner import batch_sizes
from pipeline_steps.artifacts import Pixels
from pipeline_steps.errors import ModelUnavailable
from pipeline_steps.models import ModelSpec


class ClassificationRunner:
    """A network from pictures (n, 3, side, side), normalised as ImageNet, to logits (n, classes).

    A picture is scaled to the square whatever its shape: it is a crop of one thing, and all of it counts.

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
        """From a quarter of a megapixel: smaller crops are scaled faster than a thread takes over."""
        return item.size > 3 << 18

    def prepare(self, item: Pixels) -> Shown:
        """Scale the picture to the square the model sees."""
        return pixels_at(item, (self._spec.input_size, self._spec.input_size))

    def bucket(self, ready: Shown) -> Hashable:
        """All have one shape."""
        del ready
        return "pictures"

    def max_batch(self, bucket: Hashable) -> int:
        """As the manifest says."""
        del bucket
        return self._max_batch

    def run(self, batch: Sequence[Shown]) -> list[npt.NDArray[np.float32]]:
        """Return each picture's probabilities, (classes,)."""
        side = self._spec.input_size
        images = [shown.image for shown in batch]
        logits = self._model(normalised(images, side, side, self._mean, self._std))
        if logits.ndim != 2 or logits.shape[1] != len(self._spec.classes):
            raise ModelUnavailable(
                f"model {self._spec.name!r} gives {tuple(logits.shape)} for {len(batch)} pictures and "
                f"{len(self._spec.classes)} classes"
            )
        return list(torch.softmax(logits.float(), 1).cpu().numpy())

    def warm_up(self) -> None:
        """Classify grey squares."""
        grey = self.prepare(np.full((self._spec.input_size, self._spec.input_size, 3), 128, np.uint8))
        for size in batch_sizes(self._max_batch):
            self.run([grey] * size)
