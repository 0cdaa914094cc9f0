"""Runs classifiers: ours, torchvision's, and TorchScript archives of the same form."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import prod

import numpy as np
import numpy.typing as npt
import torch

from consumer.models.picture_runner import ImageNetRunner
from consumer.models.pixels import Shown, picture_at
from pipeline_steps.errors import ModelUnavailable
from pipeline_steps.pictures import Picture


class ClassificationRunner(ImageNetRunner[npt.NDArray[np.float32]]):
    """A network from pictures (n, 3, side, side), normalised as ImageNet, to logits (n, classes).

    A picture is scaled to the square whatever its shape: it is a crop of one thing, and all of it counts.
    """

    def costly(self, item: Picture) -> bool:
        """From a quarter of a megapixel: smaller crops are scaled faster than a thread takes over."""
        return prod(item.shape) > 3 << 18

    def prepare(self, item: Picture) -> Shown:
        """Scale the picture to the square the model sees."""
        return picture_at(item, (self._spec.input_size, self._spec.input_size))

    def bucket(self, ready: Shown) -> Hashable:
        """All have one shape."""
        del ready
        return "pictures"

    def run(self, batch: Sequence[Shown]) -> list[npt.NDArray[np.float32]]:
        """Return each picture's probabilities, (classes,)."""
        side = self._spec.input_size
        logits = self._model(self._normalised(batch, side, side))
        if logits.ndim != 2 or logits.shape[1] != len(self._spec.classes):
            raise ModelUnavailable(
                f"model {self._spec.name!r} gives {tuple(logits.shape)} for {len(batch)} pictures and "
                f"{len(self._spec.classes)} classes"
            )
        return list(torch.softmax(logits.float(), 1).cpu().numpy())
