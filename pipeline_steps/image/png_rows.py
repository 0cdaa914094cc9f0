"""Whether a PNG holds the rows its header promises.

Pillow does not say: where the compressed data ends in good order but too early, the rest stays black. So the
rows are inflated once more and counted, which takes about a third of the decoding again. Nothing is kept.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from pipeline_steps.errors import UnreadableImage

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_WHOLE = ((0, 0, 1, 1),)
# The passes of an interlaced file: first column and row, then the steps between columns and rows.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATED_AT_ONCE = 1 << 20


def check_rows(data: bytes) -> None:
    """Refuse a PNG whose first picture has fewer or more bytes of rows than its header says.

    Raises:
        UnreadableImage: it has; the message needs the picture's name added.
    """
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    expected = 0
    for left, top, right, down in _ADAM7 if interlaced else _WHOLE:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + (columns * depth * _CHANNELS[colour] + 7) // 8)
    found = 0
    try:
        for inflated in _inflated(data):
            found += inflated
            if found > expected:
                break
    except zlib.error as error:
        raise UnreadableImage(f"the PNG is damaged: {error}") from error
    if found != expected:
        raise UnreadableImage(
            f"the PNG is truncated or lies about its size: {width} x {height} pixels make {expected} bytes "
            f"of rows, found {'more' if found > expected else found}"
        )


def _inflated(data: bytes) -> Iterator[int]:
    """Yield how many bytes come out of the image data, piece by piece."""
    inflate = zlib.decompressobj()
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        piece = data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        while piece:
            yield len(inflate.decompress(piece, _INFLATED_AT_ONCE))
            piece = inflate.unconsumed_tail
        at += 12 + length
