"""Where in a TIFF its blocks are, and how to make a TIFF of each.

A TIFF stores strips or tiles, each compressed by itself. With the same tags, but for its size and its place,
a block is a whole small TIFF: so whatever `read_image` knows of colours, depths and compressions holds for
blocks too.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _ORIENTATION = 256, 257, 258, 259, 274
_STRIP_PLACES, _SAMPLES, _ROWS_PER_STRIP, _STRIP_SIZES, _PLANAR = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_LENGTH, _TILE_PLACES, _TILE_SIZES, _SAMPLE_FORMAT = 322, 323, 324, 325, 339
_ABOUT_SAMPLES = (
    _BITS, _COMPRESSION, 262, 266, _SAMPLES, _PLANAR, 317, 320, 332, 338, _SAMPLE_FORMAT, 347,
    529, 530, 531, 532,
)  # fmt: skip
"""Tags that say how a block's bytes become colours: palette, predictor, alpha, JPEG tables and so on."""
_BY_THEMSELVES = {1, 5, 7, 8, 32773, 32946}
"""Compressions whose blocks need nothing of each other: none, LZW, JPEG, Deflate, PackBits, old Deflate."""
_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Of one value, by the tag's type, where it is more than one."""
_UNSIGNED = {1, 3, 4, 13, 16, 18}
_LONG = 4


class _Tag(NamedTuple):
    kind: int
    numbers: int
    """How many values."""
    value: bytes


class Strange(ValueError):
    """This TIFF is not laid out as we know it: it is for the decoder of whole pictures to judge."""


@dataclass(frozen=True, slots=True, eq=False)
class TiffBlocks:
    """The first picture of a TIFF, in blocks of one size, row by row; the last ones may be cut."""

    width: int
    """In pixels, as stored."""
    height: int
    orientation: int
    block_width: int
    block_height: int
    _data: bytes
    _order: str
    _tags: Mapping[int, _Tag]
    _places: npt.NDArray[np.uint64]
    """(planes, blocks)."""
    _sizes: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return int(self._places.shape[1])

    @property
    def across(self) -> int:
        """Blocks side by side."""
        return -(-self.width // self.block_width)

    def as_tiff(self, number: int) -> bytes:
        """Return a block as a TIFF of its own, upright as stored."""
        tiled = _TILE_WIDTH in self._tags
        rows = min(self.block_height, self.height - number // self.across * self.block_height)
        side = {_WIDTH: self.block_width, _LENGTH: self.block_height if tiled else rows}
        where = zip(self._places[:, number].tolist(), self._sizes[:, number].tolist(), strict=True)
        bodies = [self._data[place : place + size] for place, size in where]
        if tiled:
            side |= {_TILE_WIDTH: self.block_width, _TILE_LENGTH: self.block_height}
            places, sizes = _TILE_PLACES, _TILE_SIZES
        else:
            side |= {_ROWS_PER_STRIP: rows}
            places, sizes = _STRIP_PLACES, _STRIP_SIZES
        tags = {tag: self._tags[tag] for tag in _ABOUT_SAMPLES if tag in self._tags}
        tags |= {tag: self._longs(value) for tag, value in side.items()}
        tags |= {sizes: self._longs(*map(len, bodies)), places: self._longs(*(0 for _ in bodies))}
        # Every value is one of the directory's, so its length is known before the places are.
        start = len(self._written(tags))
        ends = start + np.cumsum([0, *map(len, bodies)])
        tags[places] = self._longs(*ends[:-1].tolist())
        return self._written(tags) + b"".join(bodies)

    def _longs(self, *values: int) -> _Tag:
        return _Tag(_LONG, len(values), struct.pack(f"{self._order}{len(values)}L", *values))

    def _written(self, tags: Mapping[int, _Tag]) -> bytes:
        """Return a classic TIFF's header, directory, and the values that are too long for it."""
        order = self._order
        head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HLH", 42, 8, len(tags))
        at = len(head) + 12 * len(tags) + 4
        entries, long_ones = b"", b""
        for number, tag in sorted(tags.items()):
            value = tag.value
            if len(value) > 4:
                value = struct.pack(f"{order}L", at + len(long_ones))
                long_ones += tag.value + b"\0" * (len(tag.value) % 2)
            entries += struct.pack(f"{order}HHL", number, tag.kind, tag.numbers) + value.ljust(4, b"\0")
        return head + entries + b"\0" * 4 + long_ones


def blocks_of(data: bytes) -> TiffBlocks:
    """Return where the blocks of the first picture are.

    Raises:
        Strange: blocks of this TIFF cannot be read one by one, or it is damaged.
    """
    order, tags = _first_directory(data)

    def number(tag: int, otherwise: int | None = None) -> int:
        return int(_numbers(tags, tag, otherwise, order)[0])

    width, height = number(_WIDTH), number(_LENGTH)
    tiled = _TILE_WIDTH in tags
    block_width = number(_TILE_WIDTH) if tiled else width
    block_height = number(_TILE_LENGTH) if tiled else min(number(_ROWS_PER_STRIP, height), height)
    if min(width, height, block_width, block_height) < 1:
        raise Strange("a side of no pixels")
    if number(_COMPRESSION, 1) not in _BY_THEMSELVES:
        raise Strange("a compression whose blocks may need each other")
    if _numbers(tags, _BITS, 1, order).max() > 16 or (_numbers(tags, _SAMPLE_FORMAT, 1, order) != 1).any():
        raise Strange("samples that are not of 8 or 16 bits")  # refused, or not, by what all of them hold
    planes = number(_SAMPLES, 1) if number(_PLANAR, 1) == 2 else 1
    shape = planes, -(-width // block_width) * -(-height // block_height)
    places = _numbers(tags, _TILE_PLACES if tiled else _STRIP_PLACES, None, order)
    sizes = _numbers(tags, _TILE_SIZES if tiled else _STRIP_SIZES, None, order)
    if not len(places) == len(sizes) == shape[0] * shape[1]:
        raise Strange(f"{len(places)} places and {len(sizes)} sizes of {shape[0] * shape[1]} blocks")
    if not sizes.all() or (sizes > len(data)).any() or (places > len(data) - sizes).any():
        raise Strange("blocks that lie outside the file")
    return TiffBlocks(
        width,
        height,
        number(_ORIENTATION, 1),
        block_width,
        block_height,
        data,
        order,
        tags,
        places.reshape(shape),
        sizes.reshape(shape),
    )


def _first_directory(data: bytes) -> tuple[str, dict[int, _Tag]]:
    """Return the byte order, `<` or `>`, and the tags of the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    tags: dict[int, _Tag] = {}
    try:
        big = struct.unpack_from(f"{order}H", data, 2) == (43,)
        how_many, entry, offset, room = ("Q", "HHQ", "Q", 8) if big else ("H", "HHL", "L", 4)
        (at,) = struct.unpack_from(f"{order}{offset}", data, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}{how_many}", data, at)
        at += struct.calcsize(f"{order}{how_many}")
        for _ in range(count):
            tag, kind, values = struct.unpack_from(f"{order}{entry}", data, at)
            at += struct.calcsize(f"{order}{entry}")
            length = values * _BYTES.get(kind, 1)
            (place,) = (at,) if length <= room else struct.unpack_from(f"{order}{offset}", data, at)
            if place + length > len(data):
                raise Strange(f"tag {tag} leads out of the file")
            tags[tag] = _Tag(kind, values, data[place : place + length])
            at += room
    except (struct.error, OverflowError) as error:  # a BigTIFF may lead beyond what can be counted
        raise Strange("its directory is cut off") from error
    return order, tags


def _numbers(tags: Mapping[int, _Tag], tag: int, otherwise: int | None, order: str) -> npt.NDArray[np.uint64]:
    """Return the values of a tag of whole numbers."""
    if tag not in tags and otherwise is not None:
        return np.array([otherwise], np.uint64)
    if tag not in tags or tags[tag].kind not in _UNSIGNED or not tags[tag].numbers:
        raise Strange(f"tag {tag} is missing, or no number")
    found = tags[tag]
    return np.frombuffer(found.value, f"{order}u{_BYTES.get(found.kind, 1)}", found.numbers).astype(np.uint64)
