"""Runs torchvision's Mask R-CNN."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from consumer.models.detection import TorchvisionRunner
from consumer.models.masks import no_mask, tight_mask
from consumer.models.pixels import Shown
from pipeline_steps.artifacts import Mask
from pipeline_steps.models import LocalMasks

_INSIDE = 0.5
"""Probability above which a pixel is the thing's, as in torchvision's examples and COCO's evaluation."""


class InstanceRunner(TorchvisionRunner[LocalMasks]):
    """An instance model: it answers masks, each with the box it was found by.

    torchvision pastes each mask into a picture of floats (48 MP: 192 MB each); here it is only ever as large
    as its box.
    """

    def _answer(self, shown: Shown, found: dict[str, Tensor]) -> LocalMasks:
        boxes, scores, labels = self._rows(shown, found)
        # One cell of rim, as torchvision has it, so that the edge fades out instead of stopping.
        cells, scale = expand_masks(found["masks"].float(), padding=1)
        places = expand_boxes(torch.from_numpy(boxes), scale).to(torch.int64).tolist()
        masks = tuple(
            _pasted(cell, place, shown) or no_mask(box[0], box[1], shown.height, shown.width)
            for cell, place, box in zip(cells, places, boxes, strict=True)
        )
        return LocalMasks(masks, scores, labels, boxes)


def _pasted(cells: Tensor, place: list[int], shown: Shown) -> Mask | None:
    """Return the mask (1, cells, cells) stretched over its place in the picture, x1 y1 x2 y2 inclusive."""
    left, top, right, bottom = place
    width, height = max(right - left + 1, 1), max(bottom - top + 1, 1)
    stretched = functional.interpolate(cells[None], (height, width), mode="bilinear", align_corners=False)
    inside = stretched[0, 0, max(-top, 0) : shown.height - top, max(-left, 0) : shown.width - left]
    bits = (inside > _INSIDE).numpy()
    return tight_mask(bits.astype(np.bool_, copy=False), max(left, 0), max(top, 0))
