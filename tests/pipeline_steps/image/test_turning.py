"""Pictures are made upright in the memory they are in."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from pipeline_steps.image.turning import Pixels, upright

# What a viewer does to a stored picture of each orientation, by Pillow's independent turning.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SHAPES = [
    (48, 64),  # cut into 16 parts of 3 x 4
    (510, 340),  # into 17 parts
    (320, 320),
    (31, 31),  # one pixel a part
    (1200, 1600),  # parts larger than a block
    (7, 13),  # no common divisor: turned by a copy
    (1, 9),
    (1, 1),
]


def picture(height: int, width: int) -> Pixels:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_turned_picture_is_as_pillow_turns_it(shape: tuple[int, int], orientation: int) -> None:
    stored = picture(*shape)
    expected = np.asarray(Image.fromarray(stored).transpose(TURNS[orientation]))

    turned = upright(stored.copy(), orientation)

    assert np.array_equal(turned, expected)
    assert turned.flags.c_contiguous
    assert turned.flags.writeable
    assert turned.dtype == np.uint8


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_what_is_upright_is_not_touched(orientation: int) -> None:
    stored = picture(8, 6)

    assert upright(stored, orientation) is stored


@pytest.mark.parametrize("orientation", TURNS)
def test_turning_needs_a_tenth_of_the_picture_and_no_second_one(orientation: int) -> None:
    stored = picture(1536, 2048)

    tracemalloc.start()
    turned = upright(stored, orientation)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert np.shares_memory(turned, stored)
    assert most < stored.nbytes / 10
