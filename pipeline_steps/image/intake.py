"""From a file's bytes to an upright RGB picture, or a reason why not.

Decisions that pictures depend on:

- **Size before pixels.** Format and pixel count come from the header; nothing is allocated for a picture
  over `max_pixels`. Pillow's own limit is neither used nor changed (it is global, and only warns).
- **Upright.** The EXIF orientation is applied; boxes, thumbnails and stored pictures all speak of that frame.
- **All or nothing.** A truncated JPEG decodes to a picture with a gray rest, a PNG with a black one; here
  they are refused. Up to a hundredth of a JPEG left over before its end is let pass: some cameras pad there.
- **16 bits** become 8 by their high byte (`>> 8`), as Pillow does for 16-bit colour. 32-bit and float
  pictures are refused: what is white in them is not written in them.
- **Transparency** is composed on white. **Several frames**: the first. **CMYK** is converted without its
  colour profile, Adobe's inverted kind included; colour profiles of RGB pictures are ignored as well.
- **JPEG** goes through simplejpeg, which decodes straight into the array with the GIL released. The rare
  subsamplings it does not know go through Pillow, which sees a missing end, but no damage before it.
  Peak memory is the picture itself, also while one is turned: `turning.py` does it in place.
- **TIFFs of 50 megapixels and more** may be read window by window instead: `tiff_windows.py`.
- **At full size**, but for models that are shown less, and whose owner allows it: `scaling.py`.
- **HEIF** is turned by its decoder: rotation is part of the format, and EXIF only repeats it. So the size is
  that of the upright picture and `orientation_applied` is false. A missing end is refused, but the decoder
  conceals damage between. Peak memory is three times the picture.
"""

from __future__ import annotations

import importlib
import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline_steps.errors import UnreadableImage
from pipeline_steps.image.colours import to_rgb
from pipeline_steps.image.headers import (
    FORMATS,
    UPRIGHT,
    JpegFacts,
    describe,
    exif_orientation,
    format_of,
    jpeg_facts,
    stored_size,
)
from pipeline_steps.image.png_rows import check_rows
from pipeline_steps.image.scaling import decoded_size
from pipeline_steps.image.turning import ON_ITS_SIDE, upright

Pixels: TypeAlias = npt.NDArray[np.uint8]


class _Tiff(TiffImageFile):
    """A TIFF without Pillow's own limit: it refuses 179 megapixels, whatever MAX_IMAGE_PIXELS allows."""

    def load_prepare(self) -> None:
        """Make room for the pixels, whose number has been checked, before Pillow checks it."""
        if getattr(self, "_im", self) is None:
            self.im = Image.new(self.mode, getattr(self, "_tile_size", self.size), None).im
        super().load_prepare()


# The classes themselves: `Image.open` would apply the global limit, and try formats we did not sniff.
_READERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "TIFF": _Tiff,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
}
# What Pillow's plugins raise over bytes that are not what they hoped for. MemoryError is not among them:
# it says nothing about the file. A warning raises only where the operator made warnings errors.
_DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError,
    RuntimeError, AssertionError, struct.error, zlib.error, Warning, Image.DecompressionBombError,
)  # fmt: skip
_ODD_SUBSAMPLING = "Could not determine subsampling"
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_MAX_SCANS = 100  # a progressive JPEG has about ten; a hostile one thousands, each over the whole picture
_MIN_TILE_LIMIT = 1 << 22  # a small TIFF may have padded tiles larger than itself
_STRIP_ROWS = 64

Memory: TypeAlias = Callable[[int, int, int], Pixels]
"""Gives writeable, C-contiguous memory for (height, width, channels)."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """A picture as steps see it."""

    pixels: Pixels
    """(height, width, 3), RGB, C-contiguous, writable, upright."""
    orientation_applied: bool
    """Whether the stored picture was turned or mirrored to be upright."""
    format: str
    """One of `FORMATS`."""
    source_width: int
    """Pixels as stored, before turning."""
    source_height: int
    scaled_from: tuple[int, int] | None = None
    """Height and width, upright, of what was decoded smaller than it is."""


def read_image(
    data: bytes, *, max_pixels: int, name: str, memory: Memory | None = None, longest: int | None = None
) -> DecodedImage:
    """Decode a picture's file.

    Args:
        data: the whole file.
        max_pixels: the largest width x height to decode; the setting MAX_IMAGE_PIXELS.
        name: what to call it in messages, such as its `gs://` url.
        memory: where pixels are decoded to; None takes fresh memory.
        longest: nothing is shown more pixels along a side: a JPEG may be scaled while it is decoded.

    Raises:
        UnreadableImage: it is not a picture of a format we read, is truncated or damaged, is larger than
            `max_pixels`, or says things about itself that are not so. The message names it and says what
            was found and what was expected.
    """
    image_format = format_of(data)
    if image_format is None:
        raise UnreadableImage(f"{name}: expected a picture ({', '.join(FORMATS)}), found {describe(data)}")
    try:
        size = stored_size(data, image_format)
        if size is not None:
            check_size(size, max_pixels)
        if image_format == "JPEG":
            return _read_jpeg(data, jpeg_facts(data), max_pixels, memory or fresh, longest)
        if image_format == "HEIF":
            return _read_heif(data, max_pixels, memory or fresh)
        return _read_with_pillow(data, image_format, max_pixels, memory or fresh)
    except UnreadableImage as error:
        raise UnreadableImage(f"{name}: {error}") from error.__cause__


def fresh(height: int, width: int, channels: int) -> Pixels:
    """Return memory for a picture that nobody has used before."""
    return np.empty((height, width, channels), np.uint8)


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Refuse a picture of no pixels, or of too many.

    Raises:
        UnreadableImage: it is one; the message needs the picture's name added.
    """
    width, height = size
    if not width or not height:
        raise UnreadableImage(f"its header says {width} x {height} pixels, at least 1 x 1 was expected")
    if width * height > max_pixels:
        raise UnreadableImage(
            f"{width} x {height} = {width * height} pixels, more than MAX_IMAGE_PIXELS={max_pixels}"
        )


def _read_jpeg(
    data: bytes, facts: JpegFacts, max_pixels: int, memory: Memory, longest: int | None
) -> DecodedImage:
    if facts.scans > _MAX_SCANS:
        raise UnreadableImage(f"a JPEG of {facts.scans} scans, at most {_MAX_SCANS} are decoded")
    height, width = facts.height, facts.width
    if longest is not None:
        height, width = decoded_size(height, width, longest)
    colours = "CMYK" if facts.components == 4 else "RGB"
    try:
        pixels = _decode_jpeg(data, colours, memory(height, width, len(colours)))
    except ValueError as error:
        if _ODD_SUBSAMPLING in str(error):
            return _read_with_pillow(data, "JPEG", max_pixels, memory, facts.orientation)
        raise UnreadableImage(
            f"the JPEG is truncated or damaged: expected {facts.width} x {facts.height} pixels in "
            f"{len(data)} bytes, found: {error}"
        ) from error
    if facts.components == 4:
        if facts.adobe:
            np.invert(pixels, out=pixels)
        inks = Image.frombuffer("CMYK", (width, height), pixels, "raw", "CMYK", 0, 1)
        pixels = _pixels_of(inks.convert("RGB"), memory)
    turned = upright(pixels, facts.orientation)
    stored = facts.height, facts.width
    size = stored[::-1] if facts.orientation in ON_ITS_SIDE else stored
    scaled_from = None if (height, width) == stored else size
    return DecodedImage(turned, turned is not pixels, "JPEG", facts.width, facts.height, scaled_from)


def _decode_jpeg(data: bytes, colours: str, pixels: Pixels) -> Pixels:
    """Decode into `pixels`, of whatever size; a `ValueError` where libjpeg would fill in gray."""
    height, width, _ = pixels.shape
    decode = partial(simplejpeg.decode_jpeg, data, colours, min_height=height, min_width=width, buffer=pixels)
    try:
        decode()
    except ValueError as error:
        left_over = _LEFT_OVER.search(str(error))
        if left_over is None or int(left_over[1]) * 100 > len(data):
            raise
        decode(strict=False)
    return pixels


def _read_with_pillow(
    data: bytes, image_format: str, max_pixels: int, memory: Memory, orientation: int = UPRIGHT
) -> DecodedImage:
    with _decoding(image_format, data), _READERS[image_format](io.BytesIO(data)) as image:
        size = image.size
        if isinstance(image, TiffImageFile):
            size = _tiff_size(image, max_pixels)
            orientation = _whole_number(image.tag_v2.get(0x0112, UPRIGHT))
        check_size(size, max_pixels)
        image.load()
        if image_format == "PNG":
            check_rows(data)
        if image_format in {"PNG", "WEBP"}:  # a PNG may have its EXIF behind the pixels
            orientation = exif_orientation(image.info.get("exif", b""))
        pixels = _pixels_of(to_rgb(image), memory)
    if image_format == "TIFF":  # Pillow has turned it already
        return DecodedImage(pixels, 2 <= orientation <= 8, "TIFF", *size)
    return _decoded(pixels, orientation, image_format)


def _tiff_size(image: TiffImageFile, max_pixels: int) -> tuple[int, int]:
    """Return the stored width and height; refuse tiles that hold more than a picture may."""
    width, height, tile_width, tile_height = (
        _whole_number(image.tag_v2.get(tag, 1)) for tag in (256, 257, 322, 323)
    )
    if tile_width * tile_height > max(max_pixels, _MIN_TILE_LIMIT):
        raise UnreadableImage(
            f"TIFF tiles of {tile_width} x {tile_height} pixels, more than MAX_IMAGE_PIXELS={max_pixels}"
        )
    return width, height


def _whole_number(value: object) -> int:
    if not isinstance(value, int):
        raise UnreadableImage(f"a TIFF tag that is a number holds {value!r}")
    return value


def _read_heif(data: bytes, max_pixels: int, memory: Memory) -> DecodedImage:
    try:
        heif = importlib.import_module("pillow_heif")
    except ImportError:
        raise UnreadableImage(
            f"expected one of {', '.join(FORMATS[:-1])}, found HEIF: install mlworker[heif] to read it"
        ) from None
    with _decoding("HEIF", data):
        stored = heif.open_heif(data, convert_hdr_to_8bit=True)
        check_size(stored.size, max_pixels)
        if stored.mode == "RGB":  # as cameras write: by way of Pillow it would be held twice more
            return _decoded(np.array(stored), UPRIGHT, "HEIF")
        return _decoded(_pixels_of(to_rgb(stored.to_pillow()), memory), UPRIGHT, "HEIF")


def _pixels_of(image: Image.Image, memory: Memory) -> Pixels:
    """Copy an RGB picture into an array, in strips: Pillow's own way holds the picture three times."""
    pixels = memory(image.height, image.width, 3)
    for top in range(0, image.height, _STRIP_ROWS):
        bottom = min(top + _STRIP_ROWS, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _decoded(pixels: Pixels, orientation: int, image_format: str) -> DecodedImage:
    height, width, _ = pixels.shape
    turned = upright(pixels, orientation)
    return DecodedImage(turned, turned is not pixels, image_format, width, height)


@contextmanager
def _decoding(image_format: str, data: bytes) -> Iterator[None]:
    try:
        yield
    except _DECODER_ERRORS as error:
        said = str(error).strip()
        raise UnreadableImage(
            f"the {image_format} ({len(data)} bytes) is truncated or damaged, its decoder says: {said}"
        ) from error
