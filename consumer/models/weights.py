"""From a file of weights to a network that answers; never unpickled. `weight_files.py` fetches and checks."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from consumer.models.manifest import ModelEntry
from consumer.models.weight_files import CheckedFile
from pipeline_steps.errors import ModelUnavailable
from pipeline_steps.models import ModelKind

Builder = Callable[[int], nn.Module]

# What readers of a damaged file raise, an unpickler that meets nonsense above all.
_DAMAGED = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
)


def load(model: ModelEntry, file: Path | CheckedFile, architectures: Mapping[str, Builder]) -> nn.Module:
    """Return the network with its weights, in float32 on the CPU, ready to answer.

    Blocking, and takes long: to be called on a thread.

    Args:
        model: what the manifest says of it.
        file: its weights; they are checked, where that has not been done.
        architectures: builders by name.

    Raises:
        ModelUnavailable: the file is missing, changed, damaged, of another format or another network.
    """
    checked = file if isinstance(file, CheckedFile) else CheckedFile.check(model, file)
    path = checked.path
    try:
        if model.kind is ModelKind.TORCHSCRIPT:
            # An archive of TorchScript's own format, and only for models declared as such.
            network = cast(nn.Module, torch.jit.load(str(path), map_location="cpu"))  # type: ignore[no-untyped-call]
        else:
            network = _with_weights(model, _build(model, architectures), _read(path))
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:1000]
        raise ModelUnavailable(f"model {model.name!r}: {path} cannot be loaded: {reason}") from error
    checked.require_unchanged(model)
    return network.eval()


def _build(model: ModelEntry, architectures: Mapping[str, Builder]) -> nn.Module:
    builder = architectures.get(model.architecture)
    if builder is None:
        raise ModelUnavailable(
            f"model {model.name!r}: there is no architecture {model.architecture!r}; "
            f"expected one of {', '.join(sorted(architectures))}"
        )
    with _WithoutRandomStart():
        return builder(len(model.classes))


def _read(file: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a file by name, mapped from disk where the format allows it."""
    if file.suffix == ".safetensors":
        return load_file(file)
    # Files of before torch 1.6 are no zip archives and cannot be mapped.
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        keys = ", ".join(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"expected tensors by name (a state dict), found {keys}")
    return state


def _with_weights(model: ModelEntry, network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Copy the weights into the network.

    Copied, not assigned: that converts 16-bit files to the network's float32, leaves alone what no file holds
    (such as `Sam.pixel_mean`), and nothing stays mapped to a file that somebody may truncate one day.
    """
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(
            f"it is not a {model.architecture} of {len(model.classes)} classes: {error}"
        ) from error
    return network.requires_grad_(False)


class _WithoutRandomStart(TorchFunctionMode):
    """Networks built under it, on this thread, are not filled with random numbers: a file follows anyway.

    That is most of the time a network takes to build. What is computed (zeros, ones, anchors) stays.
    """

    _FILLS = frozenset(
        {"uniform_", "normal_", "trunc_normal_", "erfinv_", "kaiming_uniform_", "kaiming_normal_"}
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in self._FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
