"""From pixels back to files, and to smaller pixels."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from pipeline_steps.errors import InvalidInput

Pixels: TypeAlias = npt.NDArray[np.uint8]

MAX_JPEG_SIDE = 65_500
"""libjpeg's limit, a little under the format's 65 535."""


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """Encode as JPEG with 4:2:0 colour, as cameras do; the GIL is released meanwhile.

    Args:
        pixels: (height, width, 3) RGB, any memory layout.
        quality: 1 to 100.

    Raises:
        InvalidInput: the picture has a side that no JPEG holds, or the quality does not exist.
    """
    _check(pixels)
    height, width, _ = pixels.shape
    if max(height, width) > MAX_JPEG_SIDE:
        raise InvalidInput(f"{width} x {height} pixels do not fit a JPEG: at most {MAX_JPEG_SIDE} a side")
    if not 1 <= quality <= 100:
        raise InvalidInput(f"JPEG quality is 1 to 100, not {quality}")
    encoded = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality, "RGB", colorsubsampling="420", fastdct=False
    )
    return bytes(encoded)


def resize_to_longest(pixels: Pixels, size: int, *, enlarge: bool = False) -> Pixels:
    """Scale so that the longest side has `size` pixels; no side gets smaller than one.

    Args:
        pixels: (height, width, 3) RGB.
        size: pixels of the longest side.
        enlarge: also scale a smaller picture up.

    Returns:
        The scaled picture, C-contiguous; `pixels` itself when there is nothing to do.

    Raises:
        InvalidInput: `size` is less than one.
    """
    _check(pixels)
    if size < 1:
        raise InvalidInput(f"the longest side cannot have {size} pixels")
    height, width, _ = pixels.shape
    longest = max(height, width)
    if size == longest or (size > longest and not enlarge):
        return pixels
    target = max(1, round(width * size / longest)), max(1, round(height * size / longest))
    # Halving by whole factors first is several times as fast for thumbnails; 3 keeps Lanczos' look.
    scaled = Image.fromarray(pixels).resize(target, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.array(scaled)


def _check(pixels: Pixels) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InvalidInput(f"expected uint8 pixels (height, width, 3), got {pixels.dtype} {pixels.shape}")
