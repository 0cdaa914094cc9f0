"""Pictures and masks that know where in the full image they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline_steps.artifact import Artifact

Pixels = npt.NDArray[np.uint8]
"""(height, width, 3), RGB."""


class Unread(Protocol):
    """Pixels, as long as they need not be there: parts of it are made as an array's are, and then read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and 3."""
        ...

    def __getitem__(self, part: tuple[slice, slice], /) -> Unread:
        """Return a part of it; nothing is read."""
        ...

    def read(self) -> Pixels:
        """Read it.

        Raises:
            UnreadableImage: the file is damaged here.
        """
        ...


@dataclass(frozen=True, eq=False)
class Image(Artifact):
    """A picture, or a part of one that remembers where it came from."""

    source: Pixels | Unread
    """Unread only of large pictures, and only if all steps that look at the picture say `in_windows`."""
    x: int = 0
    """The left edge's place in the full image."""
    y: int = 0
    """The top edge's place in the full image."""

    @property
    def pixels(self) -> Pixels:
        """They are read now, if they were not: then not on the event loop, and not of more than is needed.

        Raises:
            UnreadableImage: the file is damaged here.
        """
        return self.source if isinstance(self.source, np.ndarray) else self.source.read()

    @property
    def is_read(self) -> bool:
        """Whether its pixels are there."""
        return isinstance(self.source, np.ndarray)

    @property
    def height(self) -> int:
        """In pixels."""
        return self.source.shape[0]

    @property
    def width(self) -> int:
        """In pixels."""
        return self.source.shape[1]

    def crop(self, box: Sequence[float] | npt.NDArray[np.float32]) -> Image:
        """Return the part inside `box` (full-image pixels), rounded and clamped to this image.

        The result's origin is the rounded corner, so boxes found in it land where they were seen. A box
        that misses the image gives the nearest pixel: a crop is never empty.
        """
        x1, y1, x2, y2 = (round(float(edge)) for edge in box)
        left = min(max(x1 - self.x, 0), self.width - 1)
        top = min(max(y1 - self.y, 0), self.height - 1)
        right = min(max(x2 - self.x, left + 1), self.width)
        bottom = min(max(y2 - self.y, top + 1), self.height)
        return Image(self.source[top:bottom, left:right], self.x + left, self.y + top)


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask as the pixels of its own box: everything outside is background."""

    bits: npt.NDArray[np.bool_]
    """(height, width) of the box."""
    x: int
    y: int
    """The box's corner in the full image."""

    @property
    def area(self) -> int:
        """Pixels set."""
        return int(np.count_nonzero(self.bits))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return (self.x, self.y) == (other.x, other.y) and np.array_equal(self.bits, other.bits)

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash
