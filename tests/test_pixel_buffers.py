"""Memory for pixels is used again, and never while somebody looks at it."""

from __future__ import annotations

import threading

import numpy as np
import torch

from consumer.pixel_buffers import PixelBuffers
from pipeline_steps.artifacts import Pixels


def address(pixels: Pixels) -> int:
    return int(pixels.__array_interface__["data"][0])


def test_the_next_photo_gets_the_memory_of_the_last() -> None:
    buffers = PixelBuffers()
    first = buffers.take(100, 60, 3)
    place = address(first)
    del first

    second = buffers.take(60, 90, 3)

    assert address(second) == place
    assert second.shape == (60, 90, 3)
    assert second.flags.c_contiguous
    assert second.flags.writeable
    assert buffers.kept == 0


def test_memory_that_any_view_looks_at_is_not_used_again() -> None:
    buffers = PixelBuffers()
    pixels = buffers.take(100, 60, 3)
    views = [
        pixels[10:20, 5:9],
        pixels.view("V3")[..., 0].T,
        pixels.reshape(-1)[::2],
        np.asarray(memoryview(pixels)),
        torch.from_numpy(pixels).permute(2, 0, 1)[:, 3:5],
    ]
    place = address(pixels)
    del pixels

    while views:
        assert buffers.kept == 0
        assert address(buffers.take(100, 60, 3)) != place
        buffers._free.clear()
        views.pop()
    assert address(buffers.take(100, 60, 3)) == place


def test_a_small_photo_does_not_take_a_large_ones_memory() -> None:
    buffers = PixelBuffers()
    del (large := [buffers.take(100, 100, 3)])[0]
    assert not large

    small = buffers.take(10, 10, 3)

    assert small.base is not None
    assert buffers.kept == 30_000


def test_no_more_is_kept_than_was_said_and_the_largest_goes_first() -> None:
    buffers = PixelBuffers(keep=1000)
    photos = [buffers.take(1, 100 * size, 1) for size in (3, 9, 5)]

    photos.clear()

    assert buffers.kept == 800


def test_fresh_memory_comes_from_where_it_is_told() -> None:
    asked = []

    def memory(size: int) -> memoryview:
        asked.append(size)
        return memoryview(bytearray(size))

    buffers = PixelBuffers(memory=memory)
    buffers.take(2, 3, 3)
    buffers.take(2, 3, 3)

    assert asked == [18]


def test_many_threads_never_share_memory() -> None:
    buffers = PixelBuffers()
    spoiled = []

    def decode(value: int) -> None:
        for _ in range(200):
            pixels = buffers.take(20, 20, 3)
            pixels[...] = value
            if not (pixels == value).all():
                spoiled.append(value)

    threads = [threading.Thread(target=decode, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not spoiled
