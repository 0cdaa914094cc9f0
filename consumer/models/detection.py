"""Runs torchvision's detectors: FCOS, RetinaNet, Faster R-CNN and what is built from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from consumer.models.pixels import Shown, normalised, of_bytes, padded, shrunk
from consumer.models.runner import batch_sizes
from pipeline_steps.artifacts import Boxes, Labels, Pixels, Scores
from pipeline_steps.models import LocalBoxes, ModelSpec

A = TypeVar("A")

LOWEST_SCORE = 0.05
"""Boxes scored lower are not even looked at. The manifest's threshold is only a default of the steps, which
may ask for less; so the model itself answers down to here (or to the threshold, where that is lower)."""

CPU_BATCH = 1
"""Pictures in a batch on a CPU: one keeps it as busy as eight do, which need eight times the memory and keep
the others' pictures waiting."""


class TorchvisionRunner(ABC, Generic[A]):
    """A torchvision model that finds boxes, and answers in the frame of the pixels it was given.

    Pictures are shrunk until the longer side is the model's input size; smaller ones are never enlarged. The
    network's own resizing is taken out, so that pixels are resized exactly once.

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
        self._max_batch = min(max_batch, CPU_BATCH) if device.type == "cpu" else max_batch
        self._classes = np.array(spec.classes)
        self._model.transform = AsShown(model.transform, device)
        heads = getattr(self._model, "roi_heads", self._model)
        heads.score_thresh = min(spec.threshold, LOWEST_SCORE)

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
        """As the manifest says; on a CPU one."""
        del bucket
        return self._max_batch

    def run(self, batch: Sequence[Shown]) -> list[A]:
        """Return what is found in each picture, by descending score."""
        answers = []
        for shown, found in zip(batch, self._model([shown.image for shown in batch]), strict=True):
            order = found["scores"].argsort(descending=True, stable=True)
            order = order[found["labels"][order] > 0]  # label 0 is the background
            answers.append(self._answer(shown, {name: values[order].cpu() for name, values in found.items()}))
        return answers

    def warm_up(self) -> None:
        """Answer grey squares of the model's input size."""
        side = self._spec.input_size
        grey = self.prepare(np.full((side, side, 3), 128, np.uint8))
        for size in batch_sizes(self._max_batch):
            self.run([grey] * size)

    @abstractmethod
    def _answer(self, shown: Shown, found: dict[str, Tensor]) -> A:
        """Make an answer of the network's, which is on the host and in the frame of what was shown."""

    def _rows(self, shown: Shown, found: dict[str, Tensor]) -> tuple[Boxes, Scores, Labels]:
        """Return boxes in the frame of the pixels given and clipped to them, scores, and class names."""
        _, height, width = shown.image.shape
        scale = torch.tensor([shown.width / width, shown.height / height] * 2)
        edges = torch.tensor([shown.width, shown.height] * 2, dtype=torch.float32)
        boxes = torch.minimum((found["boxes"].float() * scale).clamp(min=0), edges)
        return boxes.numpy(), found["scores"].float().numpy(), self._classes[found["labels"].numpy() - 1]


class DetectionRunner(TorchvisionRunner[LocalBoxes]):
    """A detector: it answers boxes."""

    def _answer(self, shown: Shown, found: dict[str, Tensor]) -> LocalBoxes:
        return LocalBoxes(*self._rows(shown, found))


class AsShown(nn.Module):
    """Takes the place of torchvision's transform: normalises bytes on the device and pads."""

    def __init__(self, transform: Any, device: torch.device) -> None:
        super().__init__()
        self._mean, self._std = of_bytes(transform.image_mean, device), of_bytes(transform.image_std, device)

    def forward(self, images: list[Tensor], targets: None = None) -> tuple[ImageList, None]:
        """Return the images (uint8, of one bucket) as one normalised batch; padding is 0, the mean colour."""
        height, width = (padded(max(image.shape[side] for image in images)) for side in (1, 2))
        batch = normalised(images, height, width, self._mean, self._std)
        return ImageList(batch, [(image.shape[1], image.shape[2]) for image in images]), targets

    def postprocess(
        self, result: list[dict[str, Tensor]], shown: list[tuple[int, int]], given: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Leave the answers in the frame of what was shown; the runner knows the way back."""
        del shown, given
        return result
