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
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn

from consumer.models.manifest import ModelEntry
from pipeline_steps.models import ModelKind, Precision

Forward: TypeAlias = Callable[..., Any]

_TRUNKS = ("backbone", "image_encoder")
_WITH_BFLOAT16 = (8, 0)
"""The compute capability from which on a GPU's tensor cores know it."""


class Compile(Protocol):
    """Where a compiler would plug in: `torch.compile`, or a package AOTInductor made for a model and a GPU.

    None is here, and none has been tried on a GPU: this only says what one has to do. It is given to
    `TorchLoader`, asked once for each model and device, and what it makes is called while the model warms up,
    on a GPU with every size of batch, so that no message waits for a compilation. Shapes are few: a batch of
    one bucket has one (see `Runner.bucket`), and no size is left open.
    """

    def __call__(self, forward: Forward, model: ModelEntry, device: torch.device) -> Forward:
        """Return what computes as `forward`, the model's trunk, does on the device, only faster.

        In `fast` it is called under autocast, and its answers are made float32 again behind it.
        """
        ...


def uncompiled(forward: Forward, model: ModelEntry, device: torch.device) -> Forward:
    """Leave the trunk as it is."""
    del model, device
    return forward


def exact_float32() -> None:
    """Let float32 be float32 everywhere: by itself cuDNN computes convolutions in TF32, which has 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def compute_as_told(
    network: nn.Module, model: ModelEntry, device: torch.device, compile_trunk: Compile = uncompiled
) -> None:
    """Let the network compute in its manifest's precision; changed in place, but for TorchScript's.

    Args:
        network: the model's.
        model: says which precision.
        device: where it is going to compute.
        compile_trunk: makes the trunk faster.
    """
    bits = sixteen_bits(model, device) if model.profile is Precision.FAST else None

    def told(forward: Forward) -> Forward:
        compiled = compile_trunk(forward, model, device)
        return compiled if bits is None else Reduced(compiled, bits, device.type)

    if model.kind is not ModelKind.TORCHSCRIPT and (bits is not None or compile_trunk is not uncompiled):
        _let_trunk_compute(network, told)


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
    _let_trunk_compute(network, lambda forward: Reduced(forward, dtype, device_type))


def as_precise_as(trunk: nn.Module, forward: Forward) -> Forward:
    """Return `forward`, which computes what the trunk does in other steps, in the way the trunk was told."""
    present = vars(trunk).get("forward")
    return present.way(forward) if isinstance(present, Told) else forward


def _let_trunk_compute(network: nn.Module, way: Callable[[Forward], Forward]) -> None:
    trunks = [getattr(network, name) for name in _TRUNKS if hasattr(network, name)]
    trunk = cast(nn.Module, trunks[0] if trunks else network)
    trunk.forward = Told(trunk.forward, way)


@dataclass(frozen=True, eq=False)
class Told:
    """A trunk's forward, and the way it was told to compute."""

    forward: Forward
    way: Callable[[Forward], Forward]

    @cached_property
    def computed(self) -> Forward:
        """The forward in that way; made when it is first called, for SAM's runner has one of its own."""
        return self.way(self.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute."""
        return self.computed(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class Reduced:
    """A forward that computes in `dtype` and answers in float32."""

    forward: Forward
    dtype: torch.dtype
    device_type: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Answer as it does."""
        with torch.autocast(self.device_type, self.dtype):
            answer = self.forward(*args, **kwargs)
        if isinstance(answer, Tensor):
            return answer.float()
        return type(answer)((name, value.float()) for name, value in answer.items())
