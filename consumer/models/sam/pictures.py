"""Pictures as segment-anything is shown them: byte for byte what stock makes of them with Pillow."""

from __future__ import annotations

import numpy as np
import torch
from PIL.Image import Resampling, fromarray

from consumer.models.pixels import Shown, decoded, fitted
from pipeline_steps.artifacts import Pixels
from pipeline_steps.errors import InvalidInput
from pipeline_steps.pictures import Picture

_ROWS_AT_ONCE = 512
"""Pillow keeps four bytes a pixel: of a 48-megapixel photo, it is given a strip at a time."""
_TALL = 1.8
"""Height over width from which on it may shrink columns first (13.0 does at about 2): it gets these whole."""


def shown(picture: Picture, side: int) -> Shown:
    """Return the picture with its longer side as long as the model's square, as `ResizeLongestSide` does.

    Pillow shrinks rows first and columns then, with bytes between the two. So strips of rows can be shrunk
    one by one, and what they give is shrunk to the height: no byte differs from the whole picture at once.

    Args:
        picture: what to show.
        side: of the square, in pixels.

    Raises:
        InvalidInput: not uint8 (height, width, 3), or empty.
    """
    given_height, given_width = picture.shape[:2]
    size = height, width = fitted(given_height, given_width, side)
    pixels = decoded(picture, size)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape or pixels.dtype != np.uint8:
        raise InvalidInput(f"expected pixels of uint8 (height, width, 3), got {pixels.dtype} {pixels.shape}")
    small = _resized(_narrowed(pixels, width), width, height)
    return Shown(torch.from_numpy(small).permute(2, 0, 1), given_height, given_width)


def _narrowed(pixels: Pixels, width: int) -> Pixels:
    """Return the picture shrunk to the width, where Pillow would begin with that."""
    if len(pixels) > _TALL * pixels.shape[1]:
        return pixels
    narrow = np.empty((len(pixels), width, 3), np.uint8)
    for top in range(0, len(pixels), _ROWS_AT_ONCE):
        strip = pixels[top : top + _ROWS_AT_ONCE]
        narrow[top : top + _ROWS_AT_ONCE] = _resized(strip, width, len(strip))
    return narrow


def _resized(pixels: Pixels, width: int, height: int) -> Pixels:
    return np.array(fromarray(np.ascontiguousarray(pixels)).resize((width, height), Resampling.BILINEAR))
