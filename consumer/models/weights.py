"""A model's weights: fetched once, checked before every load, and never unpickled.

A file counts only under its final name, which it gets after its sha256 was checked; so a download that was
cut off leaves nothing that could be mistaken for a model.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from consumer.models.manifest import Manifest, ModelEntry
from consumer.storage import ObjectStore
from pipeline_steps.errors import ModelUnavailable, StepError
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


class WeightCache:
    """Finds a model's weights: beside the manifest, or in a bucket, of which it keeps copies by their sha256.

    Args:
        folder: where copies are kept; it may be shared by several workers.
        store: where `gs://` weights are read; None where there are none.
    """

    def __init__(self, folder: Path, store: ObjectStore | None = None) -> None:
        self._folder = folder
        self._store = store
        self._fetching: dict[str, asyncio.Task[Path]] = {}

    async def fetch(self, manifest: Manifest, model: ModelEntry) -> Path:
        """Return a local file with the model's weights. It is still to be checked: `load` does.

        Raises:
            ModelUnavailable: they do not exist, cannot be read, or are not what the manifest says.
        """
        location = manifest.location(model)
        if "://" not in location:
            return Path(location)
        task = self._fetching.get(model.sha256)
        if task is None:
            task = asyncio.create_task(self._fetch(location, model))
            self._fetching[model.sha256] = task
            task.add_done_callback(lambda _: self._fetching.pop(model.sha256))
        return await asyncio.shield(task)  # one caller's end is no reason to start again for the others

    async def _fetch(self, url: str, model: ModelEntry) -> Path:
        target = self._folder / f"{model.sha256}{Path(url).suffix}"
        if await asyncio.to_thread(_is_intact, target, model.sha256):
            return target
        if self._store is None:
            raise ModelUnavailable(f"model {model.name!r}: there is no object store to read {url} from")
        bucket, _, name = url.removeprefix("gs://").partition("/")
        try:
            data = (await self._store.read(bucket, name)).data
        except StepError as error:
            raise ModelUnavailable(f"model {model.name!r}: cannot read {url}: {error}") from error
        await asyncio.to_thread(_keep, data, target, url, model)
        return target


def load(model: ModelEntry, file: Path, architectures: Mapping[str, Builder]) -> nn.Module:
    """Return the network with its weights, in float32 on the CPU, ready to answer.

    Blocking, and takes seconds: to be called on a thread.

    Args:
        model: what the manifest says of it.
        file: its weights.
        architectures: builders by name.

    Raises:
        ModelUnavailable: the file is missing, changed, damaged, of another format or another network.
    """
    before = _state_of(file, model)
    found = _sha256(file)
    if found != model.sha256:
        raise ModelUnavailable(f"model {model.name!r}: {file} has sha256 {found}, expected {model.sha256}")
    try:
        if model.kind is ModelKind.TORCHSCRIPT:
            # An archive of TorchScript's own format, and only for models declared as such.
            network = cast(nn.Module, torch.jit.load(str(file), map_location="cpu"))  # type: ignore[no-untyped-call]
        else:
            network = _with_weights(model, _build(model, architectures), _read(file))
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:1000]
        raise ModelUnavailable(f"model {model.name!r}: {file} cannot be loaded: {reason}") from error
    if _state_of(file, model) != before:
        raise ModelUnavailable(f"model {model.name!r}: {file} was changed while it was read")
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


def _state_of(file: Path, model: ModelEntry) -> tuple[int, int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise ModelUnavailable(f"model {model.name!r}: {file} cannot be read: {error.strerror}") from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_intact(file: Path, sha256: str) -> bool:
    return file.is_file() and _sha256(file) == sha256


def _keep(data: bytes, target: Path, url: str, model: ModelEntry) -> None:
    """Check the bytes and give them their name, all at once."""
    found = hashlib.sha256(data).hexdigest()
    if found != model.sha256:
        raise ModelUnavailable(f"model {model.name!r}: {url} has sha256 {found}, expected {model.sha256}")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(partial).replace(target)
    finally:
        Path(partial).unlink(missing_ok=True)
