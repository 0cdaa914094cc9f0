"""Large TIFFs, read a window at a time: of 200 megapixels, only what is being looked at is held.

Blocks are decoded by `read_image`, as if each were a picture of its own, so a window shows what the whole
picture would (`tiff_blocks.py`). Those read last are kept: windows overlap, and a row of them needs the same
blocks again and again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from pipeline_steps.errors import UnreadableImage
from pipeline_steps.image.intake import Pixels, check_size, read_image
from pipeline_steps.image.tiff_blocks import Strange, TiffBlocks, blocks_of
from pipeline_steps.image.turning import ON_ITS_SIDE, stored_window, upright
from pipeline_steps.pictures import Window

LEAST_PIXELS = 50_000_000
"""Smaller pictures are decoded whole: that is faster, and any step can read them."""
_KEPT_LINES = 1024
"""As many lines' worth of pixels are kept: a row of tiles of 512 with its blocks, and the next one's. A
quarter of the picture at most."""


@dataclass(slots=True)
class TiffWindows:
    """Decodes blocks, and keeps the last few. Any thread may ask."""

    _blocks: TiffBlocks
    _name: str
    kept_bytes: int
    _kept: OrderedDict[int, Pixels] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def memory(self) -> int:
        """Bytes that are held while it is looked at: blocks, and about as much of windows."""
        return 2 * self.kept_bytes

    @property
    def turned(self) -> bool:
        """Whether the stored picture is turned or mirrored to be upright."""
        return 2 <= self._blocks.orientation <= 8

    @property
    def whole(self) -> Window:
        """The whole upright picture."""
        width, height = self._blocks.width, self._blocks.height
        if self._blocks.orientation in ON_ITS_SIDE:
            width, height = height, width
        return Window(self.read, 0, 0, width, height)

    def read(self, left: int, top: int, right: int, bottom: int) -> Pixels:
        """Return a part of the upright picture, in memory of its own."""
        blocks = self._blocks
        stored = stored_window((left, top, right, bottom), (blocks.width, blocks.height), blocks.orientation)
        with self._lock:
            return upright(self._stored(*stored), blocks.orientation)

    def _stored(self, left: int, top: int, right: int, bottom: int) -> Pixels:
        pixels = np.empty((bottom - top, right - left, 3), np.uint8)
        wide, high = self._blocks.block_width, self._blocks.block_height
        for row in range(top // high, -(-bottom // high)):
            for column in range(left // wide, -(-right // wide)):
                x, y = column * wide, row * high
                x1, y1, x2, y2 = max(left, x), max(top, y), min(right, x + wide), min(bottom, y + high)
                block = self._block(row * self._blocks.across + column)
                pixels[y1 - top : y2 - top, x1 - left : x2 - left] = block[y1 - y : y2 - y, x1 - x : x2 - x]
        return pixels

    def _block(self, number: int) -> Pixels:
        block = self._kept.pop(number, None)
        if block is None:
            largest = self._blocks.block_width * self._blocks.block_height
            name = f"{self._name}: block {number}"
            block = read_image(self._blocks.as_tiff(number), max_pixels=largest, name=name).pixels
        self._kept[number] = block
        while len(self._kept) > 1 and len(self._kept) * block.nbytes > self.kept_bytes:
            self._kept.popitem(last=False)
        return block


def open_windows(
    data: bytes, *, max_pixels: int, name: str, least_pixels: int | None = None
) -> TiffWindows | None:
    """Return the picture, to be read window by window; None if it is one to be decoded whole.

    Args:
        data: a whole file, of any format.
        max_pixels: the largest width x height to read; the setting MAX_IMAGE_PIXELS.
        name: what to call it in messages, such as its `gs://` url.
        least_pixels: from how many pixels on it is worth it; None is `LEAST_PIXELS`.

    Raises:
        UnreadableImage: it has more than `max_pixels`.
    """
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    try:
        blocks = blocks_of(data)
    except Strange:
        return None  # whatever it is, the decoder of whole pictures says it
    longer, shorter = max(blocks.width, blocks.height), min(blocks.width, blocks.height)
    kept = min(_KEPT_LINES, shorter // 4) * longer
    turned = blocks.orientation in ON_ITS_SIDE
    in_strips = blocks.block_width >= blocks.width
    if (
        blocks.width * blocks.height < (LEAST_PIXELS if least_pixels is None else least_pixels)
        or 2 * blocks.block_width * blocks.block_height > kept  # a block holds too much of the picture
        or (turned and in_strips)  # every window would need every strip
    ):
        return None
    try:
        check_size((blocks.width, blocks.height), max_pixels)
    except UnreadableImage as error:
        raise UnreadableImage(f"{name}: {error}") from None
    return TiffWindows(blocks, name, 3 * kept)
