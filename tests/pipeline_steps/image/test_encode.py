from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline_steps.errors import InvalidInput
from pipeline_steps.image.encode import MAX_JPEG_SIDE, encode_jpeg, resize_to_longest


def gradient(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack((x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)), -1).astype(
        np.uint8
    )


def test_an_encoded_picture_looks_like_its_pixels() -> None:
    pixels = gradient(60, 80)
    with Image.open(io.BytesIO(encode_jpeg(pixels, 90))) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (80, 60), "RGB")
        assert np.abs(np.asarray(image).astype(int) - pixels).mean() < 2


def test_a_lower_quality_makes_a_smaller_file() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert len(encode_jpeg(pixels, 20)) < len(encode_jpeg(pixels, 95))


def test_a_crop_that_is_a_view_encodes_as_its_copy() -> None:
    crop = gradient(60, 80)[10:50:2, ::-1]
    assert encode_jpeg(crop, 90) == encode_jpeg(crop.copy(), 90)


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_that_does_not_exist_is_refused(quality: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 100"):
        encode_jpeg(gradient(8, 8), quality)


def test_the_longest_side_a_jpeg_holds() -> None:
    assert encode_jpeg(np.zeros((1, MAX_JPEG_SIDE, 3), np.uint8), 50)
    with pytest.raises(InvalidInput, match="do not fit a JPEG"):
        encode_jpeg(np.zeros((MAX_JPEG_SIDE + 1, 1, 3), np.uint8), 50)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 4), "u1"), ((4, 4, 4), "u1"), ((4, 4, 3), "f4"), ((0, 4, 3), "u1")]
)
def test_what_is_no_rgb_picture_is_refused(shape: tuple[int, ...], dtype: str) -> None:
    pixels = np.zeros(shape, dtype)
    with pytest.raises(InvalidInput, match="expected uint8 pixels"):
        encode_jpeg(pixels, 90)
    with pytest.raises(InvalidInput, match="expected uint8 pixels"):
        resize_to_longest(pixels, 2)


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((300, 400), 256, (192, 256)),
        ((400, 300), 256, (256, 192)),
        ((2, 3000), 256, (1, 256)),
        ((3000, 2), 256, (256, 1)),
        ((1, 1), 1, (1, 1)),
        ((100, 100), 1, (1, 1)),
    ],
)
def test_the_longest_side_gets_the_size_and_no_side_vanishes(
    shape: tuple[int, int], size: int, expected: tuple[int, int]
) -> None:
    assert resize_to_longest(gradient(*shape), size).shape == (*expected, 3)


def test_a_smaller_picture_is_enlarged_only_when_asked() -> None:
    pixels = gradient(30, 40)
    assert resize_to_longest(pixels, 80) is pixels
    assert resize_to_longest(pixels, 40) is pixels
    assert resize_to_longest(pixels, 80, enlarge=True).shape == (60, 80, 3)


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(InvalidInput, match="cannot have 0 pixels"):
        resize_to_longest(gradient(30, 40), 0)


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 600), st.booleans())
def test_any_picture_at_any_size(height: int, width: int, size: int, enlarge: bool) -> None:
    pixels = np.full((height, width, 3), 77, np.uint8)
    scaled = resize_to_longest(pixels, size, enlarge=enlarge)
    assert max(scaled.shape[:2]) == (size if enlarge else min(size, max(height, width)))
    assert min(scaled.shape) >= 1
    assert scaled.flags.c_contiguous
    assert scaled.flags.writeable
    assert (scaled == 77).all()
