"""What a picture's first bytes say: its format, its size, how it was held. Nothing is decoded here.

A decoder that is asked for the size may already have allocated for it (an animated WebP, GIF or PNG), so
the sizes are read here, from the bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pipeline_steps.errors import UnreadableImage

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "HEIF")
"""What `read_image` reads; HEIF with the extra `heif`."""

UPRIGHT = 1
"""The EXIF orientation of a picture that needs no turning."""

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_OTHERS = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"<svg", "an SVG drawing"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "XML"),
    (b"{", "JSON"),
)
_ORIENTATION_TAG = 0x0112
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


def format_of(data: bytes) -> str | None:
    """Return which of `FORMATS` the bytes begin as, None for anything else."""
    for magic, found in _MAGIC:
        if data.startswith(magic):
            return found
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "HEIF"
    return None


def describe(data: bytes) -> str:
    """Say what the bytes are, for a person who thought they were a picture."""
    if not data:
        return "an empty file"
    if data[4:8] == b"ftyp":
        return f"a media file of brand {data[8:12].decode('ascii', 'replace')!r}"
    start = data[:256].lstrip().lower()
    for magic, found in _OTHERS:
        if start.startswith(magic.lower()):
            return found
    if start and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in data[:64]):
        return f"text that begins {data[:32].decode('ascii')!r}"
    return f"{len(data)} bytes that begin {data[:8].hex(' ')}"


def stored_size(data: bytes, image_format: str) -> tuple[int, int] | None:
    """Return width and height in pixels as stored, before any turning.

    None for TIFF and HEIF, whose decoders tell it without allocating.

    Raises:
        UnreadableImage: the header ends before its size; the message needs the picture's name added.
    """
    try:
        match image_format:
            case "JPEG":
                facts = jpeg_facts(data)
                return facts.width, facts.height
            case "PNG":
                width, height = struct.unpack_from(">II", data, 16)
            case "BMP" if struct.unpack_from("<I", data, 14) == (12,):
                width, height = struct.unpack_from("<HH", data, 18)
            case "BMP":
                width, height = struct.unpack_from("<ii", data, 18)
            case "GIF":
                width, height = _gif_size(data)
            case "WEBP":
                width, height = _webp_size(data)
            case _:
                return None
    except struct.error:
        raise UnreadableImage(f"the {image_format} header is cut off after {len(data)} bytes") from None
    return abs(width), abs(height)  # a BMP from the top down has a negative height


def exif_orientation(exif: bytes) -> int:
    """Return the orientation (1 to 8) in an EXIF block; upright if there is none or the block is broken.

    A picture with broken EXIF is still a picture: viewers show it as stored, and so do we.
    """
    tiff = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return UPRIGHT
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == _ORIENTATION_TAG:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), tiff, entry + 8)
                return int(value) if 1 <= value <= 8 else UPRIGHT
    except struct.error:
        return UPRIGHT
    return UPRIGHT


_COMMON = {((h, v),) for h, v in ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4))}


@dataclass(frozen=True, slots=True)
class JpegFacts:
    """What a JPEG's segments before its pixels say."""

    width: int
    height: int
    components: int
    """1 gray, 3 colour, 4 inks."""
    orientation: int
    adobe: bool
    """Written by Adobe's rules, whose CMYK is inverted."""
    scans: int
    """How often the decoder goes over the picture; about ten in a progressive file."""
    sampling: tuple[tuple[int, int], ...] = ()
    """Horizontal and vertical factor of each component."""

    @property
    def samples(self) -> int:
        """Samples of all components, but for what pads them to whole blocks."""
        across, down = (max((factors[side] for factors in self.sampling), default=1) for side in (0, 1))
        return sum(self.width * self.height * h * v // (across * down) for h, v in self.sampling)

    @property
    def is_common(self) -> bool:
        """Whether colours are sampled as nearly all are: as often as brightness, or 2 or 4 times less."""
        return self.sampling[1:] == ((1, 1),) * (len(self.sampling) - 1) and self.sampling[:1] in _COMMON


def jpeg_facts(data: bytes) -> JpegFacts:
    """Read a JPEG's segments up to its pixels.

    Raises:
        UnreadableImage: there is no frame, or no pixels follow it; the message needs the name added.
    """
    frame: tuple[int, int, int] | None = None
    sampling: tuple[tuple[int, int], ...] = ()
    orientation, adobe, progressive, at = UPRIGHT, False, False, 2
    while (at := data.find(b"\xff", at)) >= 0:
        while data[at : at + 1] == b"\xff":  # any number of them may come before a marker
            at += 1
        marker = data[at] if at < len(data) else 0xD9
        if marker == 0xD9:
            break
        if marker in _WITHOUT_LENGTH or marker == 0:
            continue
        length = int.from_bytes(data[at + 1 : at + 3], "big")
        body = data[at + 3 : at + 1 + length]
        if marker in _START_OF_FRAME and len(body) >= 6 and frame is None:
            height, width, components = struct.unpack_from(">HHB", body, 1)
            frame, progressive = (width, height, components), marker in _PROGRESSIVE
            sampling = tuple((byte >> 4 or 1, byte & 15 or 1) for byte in body[7 : 6 + 3 * components : 3])
        elif marker == 0xE1 and body.startswith(b"Exif\x00") and orientation == UPRIGHT:
            orientation = exif_orientation(body)
        elif marker == 0xEE and body.startswith(b"Adobe"):
            adobe = True
        elif marker == 0xDA and frame:
            # A file is looked through only where its decoder goes over it more than once: that takes 2 ms a
            # megabyte, in which nothing else gets on in this process.
            is_one_scan = not progressive and body[:1] == bytes([frame[2]])
            scans = 1 if is_one_scan else 1 + _scans_after(data, at)
            return JpegFacts(*frame, orientation, adobe, scans, sampling)
        at += 1 + max(length, 2)
    what = (
        f"no pixels follow its header of {frame[0]} x {frame[1]}" if frame else "it has no header with a size"
    )
    raise UnreadableImage(f"the JPEG is cut off: {what} ({len(data)} bytes)")


def _scans_after(data: bytes, at: int) -> int:
    end = data.find(b"\xff\xd9", at)
    return data.count(b"\xff\xda", at, end if end >= 0 else len(data))


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
    return (low_width | high_width << 16) + 1, (low_height | high_height << 16) + 1


def _gif_size(data: bytes) -> tuple[int, int]:
    """Return the size that holds the screen and the first frame, which may stick out of it."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while data[at : at + 1] == b"!":  # an extension: two bytes, then blocks up to an empty one
        at += 2
        while length := data[at] if at < len(data) else 0:
            at += 1 + length
        at += 1
    if data[at : at + 1] == b",":
        left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
        return max(width, left + frame_width), max(height, top + frame_height)
    return width, height
