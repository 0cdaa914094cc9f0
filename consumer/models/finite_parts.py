"""Whether the parts of a detector answer numbers: torchvision drops scores that are none unseen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from consumer.models.finite import no_numbers

_PARTS = ("backbone", "head", "rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor")
"""What scores and boxes come from, in detectors of one stage and of two."""


class FiniteParts:
    """Watches what a detector's parts answer in a forward pass.

    `NaN > threshold` is false: behind the thresholds a network that has overflowed looks like one that has
    found nothing. What is seen stays on the device, and is waited for only once, after the whole pass.

    Args:
        network: a detector of torchvision's, or built as they are.
    """

    def __init__(self, network: nn.Module) -> None:
        self._seen: list[Tensor] = []
        parts = dict(network.named_modules())
        for name in _PARTS:
            if part := parts.get(name):
                part.register_forward_hook(self._look)

    @contextmanager
    def watched(self, model: str) -> Iterator[None]:
        """Watch one forward pass of the model.

        Raises:
            NotANumber: a part answered what is none.
        """
        self._seen.clear()
        yield
        if self._seen and not bool(torch.stack(self._seen).all()):
            raise no_numbers(model)

    def _look(self, part: nn.Module, given: object, answer: Any) -> None:
        del part, given
        self._seen.extend(torch.isfinite(tensor).all() for tensor in _tensors(answer))


def _tensors(answer: Any) -> Iterator[Tensor]:
    if isinstance(answer, Tensor):
        yield answer
    else:
        for inner in answer.values() if isinstance(answer, dict) else answer:
            yield from _tensors(inner)
