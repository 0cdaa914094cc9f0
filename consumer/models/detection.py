"""Runs torchvision's detectors: FCOS, RetinaNet, Faster R-CNN and what is built from them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from consumer.models.finite_parts import FiniteParts
from consumer.models.picture_runner import A, PictureRunner
from consumer.models.pixels import Shown, normalised, of_bytes, padded
from consumer.models.runner import Sought
from pipeline_steps.artifacts import Boxes, Labels, Scores
from pipeline_steps.models import LocalBoxes, ModelSpec
from pipeline_steps.pictures import Picture

LOWEST_SCORE = 0.05
"""Boxes scored lower are not even looked at. The manifest's threshold is only a default of the steps, which
may ask for less; so the model itself answers down to here (or to the threshold, where that is lower)."""

CPU_BATCH = 1
"""Pictures in a batch on a CPU: one keeps it as busy as eight do, which need eight times the memory and keep
the others' pictures waiting."""

_A_LITTLE_LOWER = 0.99
"""Scores in 16 bits are rounded by half a percent: what is asked for is not lost by that."""


class TorchvisionRunner(PictureRunner[A]):
    """A torchvision model that finds boxes, and answers in the frame of the pixels it was given.

    The network's own resizing is taken out, so that pixels are resized exactly once.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec, device: torch.device, max_batch: int) -> None:
        at_once = min(max_batch, CPU_BATCH) if device.type == "cpu" else max_batch
        super().__init__(model, spec, device, at_once)
        self._classes = np.array(spec.classes)
        self._model.transform = AsShown(model.transform, device)
        self._heads = getattr(self._model, "roi_heads", self._model)
        self._parts = FiniteParts(model)
        self._lowest = min(spec.least(None, LOWEST_SCORE), LOWEST_SCORE)

    def costly(self, item: Picture | Sought) -> bool:
        """As every picture."""
        return super().costly(item.picture if isinstance(item, Sought) else item)

    def prepare(self, item: Picture | Sought) -> Shown:
        """As every picture; it keeps what is sought in it."""
        if isinstance(item, Sought):
            return super().prepare(item.picture)._replace(least=item.least)
        return super().prepare(item)

    def run(self, batch: Sequence[Shown]) -> list[A]:
        """Return what is found in each picture, by descending score.

        Boxes that nobody in the batch wants are dropped before the network suppresses overlapping ones, not
        afterwards. That is the same: a box is suppressed by one scored higher, so those scored under `t`
        change nothing about those above it,

            {b in nms(B): score(b) >= t}  =  nms({b in B: score(b) >= t})

        and the best 1000 that are looked at, and the best 400 that are kept, begin alike.

        Raises:
            NotANumber: the network answered what is none.
        """
        answers = []
        self._heads.score_thresh = max(self._lowest, _A_LITTLE_LOWER * min(shown.least for shown in batch))
        with self._parts.watched(self._spec.name):
            found_in_each = self._model([shown.image for shown in batch])
        for shown, found in zip(batch, found_in_each, strict=True):
            order = found["scores"].argsort(descending=True, stable=True)
            order = order[found["labels"][order] > 0]  # label 0 is the background
            answers.append(self._answer(shown, {name: values[order].cpu() for name, values in found.items()}))
        return answers

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
