"""The two precisions of a model: `exact` computes in float32 throughout, `fast` its trunk in 16 bits.

The trunk is where the time goes: a detector's backbone, SAM's image encoder, all of a classifier. Detectors'
heads and SAM's decoder stay in float32 also in `fast`: in bfloat16 a box edge at 1000 is off by up to 4
pixels. The weights stay float32 too, and are rounded where they are used. What `fast` changes in answers is
measured: docs/precision.md.

| device | `fast` computes in |
|---|---|
| a GPU from compute capability 8.0 (A100, L4) | bfloat16 |
| an older GPU (T4) | float16 |
| a CPU that multiplies bfloat16 (AMX, AVX512-BF16) | bfloat16 |
| any other CPU | float32 |

Nothing here has been run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from consumer.models.manifest import ModelEntry
from pipeline_steps.models import Precision

_TRUNKS = ("backbone", "image_encoder")
_WITH_BFLOAT16 = (8, 0)
"""The compute capability from which on a GPU's tensor cores know it."""


def exact_float32() -> None:
    """Let float32 be float32 everywhere: by itself cuDNN computes convolutions in TF32, which has 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def compute_as_told(network: nn.Module, model: ModelEntry, device: torch.device) -> None:
    """Let the network compute in its manifest's precision; changed in place.

    Args:
        network: the model's.
        model: says which precision.
        device: where it is going to compute.
    """
    bits = sixteen_bits(model, device) if model.profile is Precision.FAST else None
    if bits is not None:
        reduce_trunk(network, bits, device.type)


def sixteen_bits(model: ModelEntry, device: torch.device) -> torch.dtype | None:
    """Return what the model's `fast` is on that device; None where 16 bits would only be slower."""
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        return torch.bfloat16 if can.get("amx_bf16") or can.get("avx512_bf16") else None
    if model.dtype is not None:
        return cast(torch.dtype, getattr(torch, model.dtype))
    new = torch.cuda.get_device_capability(device) >= _WITH_BFLOAT16
    return torch.bfloat16 if new else torch.float16


def reduce_trunk(network: nn.Module, dtype: torch.dtype, device_type: str) -> None:
    """Let the trunk compute in `dtype` on that type of device; where there is none, the whole network."""
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
