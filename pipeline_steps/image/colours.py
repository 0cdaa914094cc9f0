"""From whatever colours a picture has to 8-bit RGB; what is decided here stands in `intake.py`."""

from __future__ import annotations

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from pipeline_steps.errors import UnreadableImage


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded picture in 8-bit RGB, on white.

    Raises:
        UnreadableImage: its samples have no white that we know: floating point, or 32 bits.
    """
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.mode == "F":
        raise UnreadableImage("a picture of floating point numbers, expected 8 or 16 bits a sample")
    if image.mode in {"RGBa", "La"}:  # alpha already multiplied in
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    if image.mode not in {"RGBA", "LA", "PA"} and "transparency" not in image.info:
        return image.convert("RGB")
    coloured = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(coloured.convert("RGB"), mask=coloured.getchannel("A"))
    return white


def _from_16_bit(image: Image.Image) -> Image.Image:
    samples = np.asarray(image)
    if image.mode == "I" and (samples.min() < 0 or samples.max() > 0xFFFF):
        raise UnreadableImage("a picture of 32 bits a sample, expected 8 or 16")
    gray = (samples >> 8).astype(np.uint8)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(262) == 0:  # 0 is white
        np.invert(gray, out=gray)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        gray[samples == transparent] = 0xFF
    return Image.fromarray(gray).convert("RGB")
