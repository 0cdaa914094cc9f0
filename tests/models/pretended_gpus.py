"""GPUs that are not there: tensors that say they are on one, and compute on the CPU.

As real ones they refuse to mix tensors of two devices, and give no numpy array of what is on them. So code
that runs on them leaves no tensor behind on the CPU or on another GPU, and its answers can be compared with
the CPU's. They show nothing of CUDA itself: its rounding, memory, speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

from consumer.models.torch_device import TorchDevice

CPU = torch.device("cpu")
_MOVING = frozenset({"_to_copy", "copy_"})
_ROWS_FROM_ANYWHERE = frozenset({"index", "index_put_"})
"""A GPU takes rows by numbers that are on the CPU."""


class PretendedGpu(TorchDevice):
    """One of them, for a pool of models."""

    def __init__(self, number: int) -> None:
        self.torch = torch.device("cuda", number)
        self.name = str(self.torch)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Pretend, and record no gradients, on this thread."""
        with torch.inference_mode(), pretended_gpus():
            yield

    def memory(self) -> int:
        """Nobody counts."""
        return 0

    def release_memory(self) -> None:
        """Nothing is kept."""


@contextmanager
def pretended_gpus() -> Iterator[None]:
    """Let tensors and networks be made on GPUs, and moved to them, on this thread while the context lasts."""
    torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]  # it asks no driver where there is none
    with _Moving():
        yield


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, gpu: torch.device) -> OnGpu:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=gpu,
        )
        made.held = held
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU, if a GPU would compute it."""
        del types
        name, kwargs = func.__name__.partition(".")[0], kwargs or {}
        if name == "_has_compatible_shallow_copy_type":
            return False  # a network that moves gets new parameters
        gpu = _gpu_of(name, args, kwargs)
        target = kwargs.get("device")
        held = tree_map_only(OnGpu, lambda tensor: tensor.held, (args, kwargs))
        held_args, held_kwargs = tree_map_only(torch.device, lambda _: CPU, held)
        out = func(*held_args, **held_kwargs)
        if target == CPU:
            return out
        if name == "copy_" and not isinstance(args[0], OnGpu):
            return args[0]
        out = tree_map_only(torch.Tensor, lambda tensor: OnGpu(tensor, target or gpu), out)
        return return_and_correct_aliasing(func, args, kwargs, out)


def _gpu_of(name: str, args: Any, kwargs: Any) -> torch.device:
    """Return the GPU that all tensors are on; only one without axes may be on the CPU."""
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    gpus = {each.device for each in tensors if isinstance(each, OnGpu)}
    behind = [tuple(each.shape) for each in tensors if not isinstance(each, OnGpu) and each.dim()]
    if name not in _MOVING and (len(gpus) > 1 or (behind and name not in _ROWS_FROM_ANYWHERE)):
        where = ", ".join(sorted(map(str, gpus)))
        raise RuntimeError(
            f"{name}: expected all tensors on one device, found some on {where}, on cpu {behind}"
        )
    return next(iter(gpus))


class _Moving(TorchFunctionMode):
    """Whoever wants a tensor on a GPU gets one."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func is torch.Tensor.tolist and isinstance(args[0], OnGpu):
            return args[0].held.tolist()
        if func is torch.Tensor.to and len(args) == 2 and isinstance(args[1], torch.Tensor):
            args = (args[0], args[1].device, args[1].dtype)  # like another tensor
        wanted = next((each for each in (*args, kwargs.get("device")) if _is_gpu(each)), None)
        if wanted is None or func is torch._C._nn._parse_to:  # type: ignore[attr-defined]
            return func(*args, **kwargs)
        held = tree_map_only(OnGpu, lambda tensor: tensor.held, (args, kwargs))
        args, kwargs = tree_map_only(torch.device, lambda _: CPU, held)
        return OnGpu(func(*args, **kwargs), wanted)


def _is_gpu(value: object) -> bool:
    return isinstance(value, torch.device) and value.type == "cuda"
