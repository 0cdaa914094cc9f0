"""How much memory a picture's file needs while it is decoded, from its header alone."""

from __future__ import annotations

import re
import struct
from io import BytesIO

from PIL.TiffImagePlugin import TiffImageFile

from pipeline_steps.errors import UnreadableImage
from pipeline_steps.image.headers import JpegFacts, format_of, jpeg_facts, stored_size
from pipeline_steps.image.scaling import decoded_size

_BYTES_PER_PIXEL = {"HEIF": 9, "TIFF": 11}
"""HEIF is held three times; what libtiff unpacks is held beside two others."""
_WITH_PILLOW = 7
"""Pillow holds 4 bytes a pixel beside the 3 of the result."""
_COLOURS, _INKS = 3, 11
"""JPEG is decoded in place; inks are held beside what Pillow makes of them."""
_COEFFICIENT = 2
"""Bytes of each sample that libjpeg keeps of a file of several scans, however small it is decoded."""
_SPATIAL_EXTENTS = re.compile(rb"ispe\0\0\0\0(.{8})", re.DOTALL)
_HEAD = 1 << 18


def decoding_bytes(data: bytes, max_pixels: int, longest: int | None = None) -> int:
    """Return the bytes decoding needs at its peak; 0 for what will be refused before anything is decoded.

    Args:
        data: the whole file.
        max_pixels: the most that is decoded.
        longest: as `read_image` is told.
    """
    image_format = format_of(data)
    if image_format is None:
        return 0
    # The size stands near the beginning of nearly every file; and to look through 20 MB takes milliseconds.
    # A TIFF is not looked through: its first bytes say where the size stands, which may be the end.
    near = None if image_format == "TIFF" else _size(data[:_HEAD], image_format)
    width, height = near or _size(data, image_format) or (0, 0)
    if width * height > max_pixels:
        return 0
    if image_format == "JPEG" and width and height:
        return _of_a_jpeg(_facts(data[:_HEAD]) or _facts(data), longest)
    return width * height * _BYTES_PER_PIXEL.get(image_format, _WITH_PILLOW)


def _of_a_jpeg(facts: JpegFacts | None, longest: int | None) -> int:
    if facts is None:
        return 0
    kept = _COEFFICIENT * facts.samples if facts.scans > 1 else 0
    height, width = facts.height, facts.width
    if not facts.is_common and facts.components != 4:  # read by Pillow, if simplejpeg does not know it
        return height * width * _WITH_PILLOW + kept
    if longest is not None:
        height, width = decoded_size(height, width, longest)
    return height * width * (_INKS if facts.components == 4 else _COLOURS) + kept


def _facts(data: bytes) -> JpegFacts | None:
    try:
        return jpeg_facts(data)
    except UnreadableImage:
        return None


def _size(data: bytes, image_format: str) -> tuple[int, int] | None:
    try:
        return stored_size(data, image_format) or _size_inside(data, image_format)
    except UnreadableImage:
        return None


def _size_inside(data: bytes, image_format: str) -> tuple[int, int] | None:
    """Return width and height of a TIFF or HEIF."""
    if image_format == "HEIF":
        # A grid names the size of its tiles and its own; the largest is the picture's.
        sizes = [struct.unpack(">II", found) for found in _SPATIAL_EXTENTS.findall(data)]
        return max(sizes, key=lambda size: size[0] * size[1], default=None)
    try:
        with TiffImageFile(BytesIO(data)) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error):
        return None  # its decoder will say what is wrong
    return int(width), int(height)
