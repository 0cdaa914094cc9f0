"""Files that Pillow does not write, byte by byte: odd JPEGs, 16-bit colour, headers of impossible size."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Planes = Sequence[npt.NDArray[np.uint8]]


def mosaic_jpeg(
    planes: Planes,
    sampling: Sequence[tuple[int, int]],
    *,
    ids: bytes = b"\x01\x02\x03",
    adobe_transform: int | None = None,
) -> bytes:
    """Return a baseline JPEG without JFIF marker, whose every block of 8 x 8 has one value.

    Args:
        planes: for each component a (rows, columns) array of the blocks' values.
        sampling: horizontal and vertical factor of each component; a plane has as many columns and rows.
            Only one MCU row and column is written, so that block order is plain.
        ids: component ids; b"RGB" makes libjpeg take them as colours.
        adobe_transform: adds Adobe's marker: 0 for CMYK, 2 for YCCK.
    """
    wide, high = max(h for h, _ in sampling), max(v for _, v in sampling)
    frame = struct.pack(">BHHB", 8, 8 * high, 8 * wide, len(planes))
    frame += b"".join(bytes((i, h << 4 | v, 0)) for i, (h, v) in zip(ids, sampling, strict=True))
    bits = ""
    for plane in planes:
        before = 0
        for value in plane.reshape(-1):
            level = 8 * (int(value) - 128)  # the quantisation is 1, and a DC of 8 is one step of a flat block
            difference, before = level - before, level
            category = abs(difference).bit_length()
            offset = difference if difference >= 0 else difference + (1 << category) - 1
            bits += f"{category:04b}" + (f"{offset:0{category}b}" if category else "") + "0"  # no AC
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    scan = bytes((len(planes),)) + b"".join(bytes((i, 0)) for i in ids) + b"\x00\x3f\x00"
    categories_of_4_bits = bytes((0, 0, 0, 12, *([0] * 12), *range(12)))
    end_of_block_of_1_bit = bytes((1, *([0] * 15), 0))
    return b"".join(
        (
            b"\xff\xd8",
            b""
            if adobe_transform is None
            else _segment(0xEE, b"Adobe\x00\x64" + bytes((0, 0, 0, 0, adobe_transform))),
            _segment(0xDB, b"\x00" + b"\x01" * 64),
            _segment(0xC0, frame),
            _segment(0xC4, b"\x00" + categories_of_4_bits),
            _segment(0xC4, b"\x10" + end_of_block_of_1_bit),
            _segment(0xDA, scan),
            coded,
            b"\xff\xd9",
        )
    )


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def jpeg_saying(width: int, height: int) -> bytes:
    """Return a one-block JPEG whose header claims another size."""
    small = mosaic_jpeg([np.full((1, 1), 128, np.uint8)], [(1, 1)], ids=b"\x01")
    return small.replace(struct.pack(">HH", 8, 8), struct.pack(">HH", height, width), 1)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int,
    height: int,
    *,
    depth: int,
    colour: int,
    rows: bytes,
    before: bytes = b"",
    interlaced: bool = False,
) -> bytes:
    """Return a PNG of raw `rows`, each of which begins with its filter byte; `before` comes before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + before
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def tiff(
    samples: npt.NDArray[np.uint16], *, photometric: int, order: str = "<", tile: int | None = None
) -> bytes:
    """Return an uncompressed 16-bit TIFF of (h, w) or (h, w, channels) samples, little- or big-endian.

    With `tile`, the samples are said to be one tile of that width and height.
    """
    height, width = samples.shape[:2]
    channels = samples.shape[2] if samples.ndim == 3 else 1
    data = samples.astype(f"{order}u2").tobytes()
    depths_at = 8 + len(data)
    directory_at = depths_at + 2 * channels
    depths = (3, 1, 16) if channels == 1 else (3, channels, depths_at)
    entries = {
        256: (4, 1, width), 257: (4, 1, height), 258: depths, 259: (3, 1, 1), 262: (3, 1, photometric),
        273: (4, 1, 8), 277: (3, 1, channels), 278: (4, 1, height), 279: (4, 1, len(data)),
    }  # fmt: skip
    if tile:
        del entries[273], entries[278], entries[279]
        entries |= {322: (4, 1, tile), 323: (4, 1, tile), 324: (4, 1, 8), 325: (4, 1, len(data))}
    directory = struct.pack(f"{order}H", len(entries))
    for tag, (kind, count, value) in entries.items():
        small = kind == 3 and count == 1
        directory += struct.pack(f"{order}HHI", tag, kind, count)
        directory += struct.pack(f"{order}HH", value, 0) if small else struct.pack(f"{order}I", value)
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, directory_at)
    depth_list = struct.pack(f"{order}{channels}H", *([16] * channels))
    return magic + data + depth_list + directory + b"\x00\x00\x00\x00"


def bombs() -> dict[str, bytes]:
    """Return small files that say they are 2 to 4 gigapixels; several would be allocated at opening."""
    side = 65_500
    animated = png_chunk(b"acTL", struct.pack(">II", 2, 0)) + png_chunk(
        b"fcTL", struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 1, 1, 0)
    )
    frame_sticks_out = b"\x21\xf9\x04\x08\x00\x00\x00\x00" + b"," + struct.pack("<HHHHB", 0, 0, side, side, 0)
    extended = b"\x10\x00\x00\x00" + (side - 1).to_bytes(3, "little") * 2
    webp = b"WEBPVP8X" + struct.pack("<I", len(extended)) + extended
    bmp = struct.pack("<IIIIiiHHIIIIII", 118, 0, 54, 40, side, -side, 1, 24, 0, 0, 0, 0, 0, 0)
    return {
        "JPEG": jpeg_saying(side, side),
        "PNG": png(side, side, depth=8, colour=6, rows=b"\x00" * 64),
        "animated PNG": png(side, side, depth=8, colour=6, rows=b"\x00" * 64, before=animated),
        "GIF": b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + frame_sticks_out + b"\x02\x00;",
        "GIF with a large frame": b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + frame_sticks_out,
        "WEBP": b"RIFF" + struct.pack("<I", len(webp)) + webp,
        "BMP": b"BM" + bmp + b"\x00" * 64,
        "TIFF": tiff(np.zeros((4, 4), np.uint16), photometric=1)
        .replace(struct.pack("<HHII", 256, 4, 1, 4), struct.pack("<HHII", 256, 4, 1, side))
        .replace(struct.pack("<HHII", 257, 4, 1, 4), struct.pack("<HHII", 257, 4, 1, side)),
    }
