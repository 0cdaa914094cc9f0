"""Pictures and masks that know where in the full image they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

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


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a picture that is not decoded yet, in the frame of the upright picture."""

    _decode: Callable[[int, int, int, int], Pixels]
    """Returns the part between left, top, right and bottom."""
    left: int
    top: int
    right: int
    bottom: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and 3, as an array's."""
        return self.bottom - self.top, self.right - self.left, 3

    def __getitem__(self, part: tuple[slice, slice], /) -> Window:
        """Return a part of it, as an array does; nothing is decoded."""
        (top, bottom, _), (left, right, _) = (
            one.indices(length) for one, length in zip(part, self.shape[:2], strict=True)
        )
        x, y = self.left, self.top
        return Window(self._decode, x + left, y + top, x + right, y + bottom)

    def read(self) -> Pixels:
        """Decode it: milliseconds, so not on the event loop.

        Raises:
            UnreadableImage: the file is damaged here.
        """
        return self._decode(self.left, self.top, self.right, self.bottom)


@dataclass(frozen=True, eq=False)
class ScaledPhoto:
    """A photo that was decoded smaller than it is, for models that are shown no more of it.

    What is said of it, and what models answer, is in the frame of the photo.
    """

    small: Pixels
    photo: Window
    """For whoever needs its pixels nevertheless: they are decoded then, all of them."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The photo's height and width, and 3."""
        return self.photo.shape

    def __getitem__(self, part: tuple[slice, slice], /) -> Window:
        """Return a part of the photo, at full size; nothing is decoded."""
        return self.photo[part]

    def read(self) -> Pixels:
        """Decode the photo at full size.

        Raises:
            UnreadableImage: the file is damaged.
        """
        return self.photo.read()


Picture: TypeAlias = Pixels | ScaledPhoto
"""What models are shown."""


@dataclass(frozen=True, eq=False)
class Image(Artifact):
    """A picture, or a part of one that remembers where it came from."""

    source: Pixels | Unread
    """Unread only if no step needs the picture as it is: large ones if all that look at it say `in_windows`,
    and scaled ones if all of them only show it to models, as a whole."""
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
    def shown(self) -> Picture:
        """What to show models of the picture as a whole: its pixels, or what was decoded for them.

        Raises:
            UnreadableImage: as `pixels`.
        """
        return self.source if isinstance(self.source, ScaledPhoto) else self.pixels

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
