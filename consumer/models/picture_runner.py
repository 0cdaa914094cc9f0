"""What the runners share that look at pictures; each of them holds only what differs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from consumer.models.architectures import IMAGENET_MEAN, IMAGENET_STD
from consumer.models.pixels import Shown, normalised, of_bytes, padded, shrunk
from consumer.models.runner import warm_up_sizes
from pipeline_steps.models import ModelSpec
from pipeline_steps.pictures import Picture

A = TypeVar("A")


class PictureRunner(ABC, Generic[A]):
    """A network that looks at pictures.

    Pictures are shrunk until the longer side is the model's input size, never enlarged.

    Args:
        model: the network, on its device.
        spec: what the manifest says of it.
        device: where it is.
        max_batch: most pictures in one forward pass.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec, device: torch.device, max_batch: int) -> None:
        self._model = cast(Any, model)
        self._spec = spec
        self._device = device
        self._max_batch = max_batch

    def costly(self, item: Picture) -> bool:
        """Only where it must be shrunk."""
        return bool(max(item.shape[:2]) > self._spec.input_size)

    def prepare(self, item: Picture) -> Shown:
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

    def fill(self, batch: Sequence[Shown]) -> float:
        """The pictures' share of the shapes they are padded to."""
        seen = [shown.image.shape[1:] for shown in batch]
        height, width = (padded(max(shape[side] for shape in seen)) for side in (0, 1))
        return float(sum(h * w for h, w in seen)) / (len(batch) * height * width)

    @abstractmethod
    def run(self, batch: Sequence[Shown]) -> list[A]:
        """Return the answer to each picture."""

    def warm_up(self) -> None:
        """Answer grey pictures of the model's input size.

        On a CPU of 4:3, as most photos are: its layers are prepared once a shape, which the first photo would
        wait for. On a GPU squares: nothing that is shown takes more of the memory that is measured meanwhile.
        """
        side = self._spec.input_size
        height = side * 3 // 4 if self._device.type == "cpu" else side
        grey = self.prepare(np.full((height, side, 3), 128, np.uint8))
        for size in warm_up_sizes(self._max_batch, self._device.type):
            self.run([grey] * size)


class ImageNetRunner(PictureRunner[A]):
    """A network that takes pictures normalised as ImageNet's are."""

    def __init__(self, model: nn.Module, spec: ModelSpec, device: torch.device, max_batch: int) -> None:
        super().__init__(model, spec, device, max_batch)
        self._mean, self._std = of_bytes(IMAGENET_MEAN, device), of_bytes(IMAGENET_STD, device)

    def _normalised(self, batch: Sequence[Shown], height: int, width: int) -> Tensor:
        return normalised([shown.image for shown in batch], height, width, self._mean, self._std)
