"""The devices torch knows."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from consumer.ops.allocator import keep_blocks_of_layers
from pipeline_steps.errors import ModelUnavailable

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")

_STICKY = (
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "device-side assert",
    "unspecified launch failure",
    "hardware stack error",
    "uncorrectable ECC error",
    "NVLink error",
)


class TorchDevice:
    """The CPU, or one GPU."""

    def __init__(self, name: str) -> None:
        """Find the device.

        Args:
            name: `cpu`, `cuda` or `cuda:N`.

        Raises:
            ModelUnavailable: this machine has no such device.
        """
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ModelUnavailable(f"device {name!r}: expected cpu or cuda:N") from error
        if device.type == "cuda":
            device = torch.device("cuda", device.index or 0)
            if device.index >= (found := torch.cuda.device_count()):
                raise ModelUnavailable(f"device {name!r}: this machine has {found} GPUs torch can use")
        elif device.type != "cpu":
            raise ModelUnavailable(f"device {name!r}: expected cpu or cuda:N")
        self.name = str(device)
        self.torch = device

    @contextmanager
    def session(self) -> Iterator[None]:
        """Choose the GPU and record no gradients, for as long as the thread lives."""
        with torch.inference_mode():
            if self.torch.type == "cuda":
                torch.cuda.set_device(self.torch)
            else:
                keep_blocks_of_layers()
            yield

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Say whether a smaller batch may succeed: torch has a class of its own only for GPUs."""
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)

    def is_broken(self, error: BaseException) -> bool:
        """Say whether it is an error after which every call to CUDA fails until the process ends."""
        return self.torch.type == "cuda" and any(words in str(error) for words in _STICKY)

    def memory(self) -> int:
        """Return the bytes of tensors on the GPU, or of the whole process."""
        if self.torch.type == "cuda":
            return torch.cuda.memory_allocated(self.torch)
        return _of_the_process()

    def release_memory(self) -> None:
        """Give back what torch keeps cached."""
        gc.collect()
        if self.torch.type == "cuda":
            torch.cuda.empty_cache()


def pinned(size: int) -> memoryview:
    """Return memory that a GPU can read by itself, for `PixelBuffers`. Not tested on a GPU."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy().data


def _of_the_process() -> int:
    """Return the bytes this process holds; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
