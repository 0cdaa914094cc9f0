"""Computing a network's trunk in 16 bits, and all that needs exact numbers in 32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from consumer.models.manifest import ComputeDtype

_TRUNKS = ("backbone", "image_encoder")


def compute_in(network: nn.Module, dtype: ComputeDtype, device: torch.device) -> None:
    """Let the network's trunk compute in `dtype`, where the device is a GPU.

    Detectors and SAM keep their heads in float32: a box edge at 1000 is off by up to 4 pixels in bfloat16. A
    network without a trunk of its own, such as a classifier, computes all of it in `dtype`. The weights stay
    float32 and are rounded where they are used.

    Args:
        network: changed in place.
        dtype: as the manifest has it.
        device: a CPU always computes in float32, where 16 bits gain nothing or are slower.
    """
    if device.type == "cpu" or dtype == "float32":
        return
    reduce_trunk(network, getattr(torch, dtype), device.type)


def reduce_trunk(network: nn.Module, dtype: torch.dtype, device_type: str) -> None:
    """Let the trunk compute in `dtype` on that type of device."""
    trunks = [getattr(network, name) for name in _TRUNKS if hasattr(network, name)]
    trunk = cast(nn.Module, trunks[0] if trunks else network)
    trunk.forward = Reduced(trunk.forward, dtype, device_type)


def as_precise_as(trunk: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return `forward`, which computes what the trunk does in another way, reduced as the trunk is."""
    present = vars(trunk).get("forward")
    return replace(present, forward=forward) if isinstance(present, Reduced) else forward


@dataclass(frozen=True, eq=False)
class Reduced:
    """A forward that computes in `dtype` and answers in float32."""

    forward: Callable[..., Any]
    dtype: torch.dtype
    device_type: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer as it does."""
        with torch.autocast(self.device_type, self.dtype):
            answer = self.forward(*args, **kwargs)
        if isinstance(answer, Tensor):
            return answer.float()
        return type(answer)((name, value.float()) for name, value in answer.items())
