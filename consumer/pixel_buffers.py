"""Memory that photos are decoded into, used again by the next photo.

Fresh memory has to be cleared by the kernel page by page: a tenth of the time a JPEG takes to decode.
Nobody has to hand a buffer back: it is free when the last array that looks at it is gone.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np

from pipeline_steps.artifacts import Pixels

KEPT_BYTES = 160_000_000
"""What is kept for later at most: one photo of 48 megapixels, or four of 12."""

_WASTE = 2
"""A buffer up to so many times too large is used, rather than getting fresh memory."""


def pageable(size: int) -> memoryview:
    """Return ordinary memory of that many bytes."""
    return np.empty(size, np.uint8).data


class PixelBuffers:
    """Lends memory for pixels.

    Args:
        keep: bytes that are kept for later at most; the largest photos' go first.
        memory: where fresh memory comes from, such as `torch_device.pinned`.
    """

    def __init__(self, keep: int = KEPT_BYTES, memory: Callable[[int], memoryview] = pageable) -> None:
        self._keep = keep
        self._memory = memory
        self._returned: deque[memoryview] = deque()
        self._free: list[memoryview] = []
        self._lock = threading.Lock()

    def take(self, height: int, width: int, channels: int) -> Pixels:
        """Return an array (height, width, channels) of bytes left over from whatever was there before."""
        size = height * width * channels
        buffer = self._fitting(size) or self._memory(size)
        # An array over a memoryview is the end of its views' chains of bases: each of them keeps it alive.
        pixels = np.frombuffer(buffer, np.uint8, size)
        weakref.finalize(pixels, self._give_back, buffer).atexit = False
        return pixels.reshape(height, width, channels)

    @property
    def kept(self) -> int:
        """Bytes that wait for the next photo."""
        with self._lock:
            self._sort_in()
            return sum(map(len, self._free))

    def _fitting(self, size: int) -> memoryview | None:
        with self._lock:
            self._sort_in()
            for place, buffer in enumerate(self._free):
                if size <= len(buffer) <= _WASTE * size:
                    return self._free.pop(place)
            return None

    def _give_back(self, buffer: memoryview) -> None:
        """Take back the memory of an array that is gone: at any moment, even in the middle of `_fitting`."""
        self._returned.append(buffer)
        if self._lock.acquire(blocking=False):
            try:
                self._sort_in()
            finally:
                self._lock.release()

    def _sort_in(self) -> None:
        """Put what was given back among the free buffers, smallest first, and let go of what is too much."""
        while self._returned:
            self._free.append(self._returned.popleft())
        self._free.sort(key=len)
        while sum(map(len, self._free)) > self._keep:
            self._free.pop()
