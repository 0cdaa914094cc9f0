"""Photos decoded smaller than they are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from consumer.local.scenes import demo_photo
from consumer.photo_size import decoding_bytes
from pipeline_steps.errors import UnreadableImage
from pipeline_steps.image.encode import encode_jpeg
from pipeline_steps.image.intake import DecodedImage, read_image
from pipeline_steps.image.scaling import decoded_size

PHOTO = demo_photo(3, 900, 1200).pixels
JPEG = encode_jpeg(PHOTO, 92)
MOST = 2_000_000


def by_pillow(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def read(data: bytes, longest: int | None) -> DecodedImage:
    return read_image(data, max_pixels=MOST, name="x", longest=longest)


def shrunk(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Pillow.fromarray(pixels).resize((width, height), Pillow.Resampling.BILINEAR), np.int16)


@pytest.mark.parametrize(
    ("longest", "size"),
    [(60, (113, 150)), (100, (113, 150)), (150, (225, 300)), (300, (338, 450)), (400, (450, 600))],
)
def test_a_jpeg_is_decoded_to_the_least_eighths_that_leave_a_margin(
    longest: int, size: tuple[int, int]
) -> None:
    found = read(JPEG, longest)

    assert found.pixels.shape == (*size, 3)
    assert found.scaled_from == (900, 1200)
    assert (found.source_height, found.source_width) == (900, 1200)


@pytest.mark.parametrize("longest", [60, 150, 300, 400])
def test_what_models_are_shown_of_it_is_nearly_what_they_are_shown_of_the_whole(longest: int) -> None:
    size = (longest, longest * 3 // 4)

    off = np.abs(shrunk(read(JPEG, longest).pixels, *size) - shrunk(read(JPEG, None).pixels, *size))

    assert 0 < off.mean() < 2.5


@pytest.mark.parametrize("longest", [500, 1200, 5000])
def test_what_would_be_too_small_for_a_model_is_decoded_at_its_own_size(longest: int) -> None:
    found, whole = read(JPEG, longest), read(JPEG, None)

    assert found.scaled_from is None
    np.testing.assert_array_equal(found.pixels, whole.pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_upright_as_the_whole_one_is(orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    data = by_pillow(PHOTO, "JPEG", exif=exif.tobytes(), quality=92)

    found, whole = read(data, 150), read(data, None)

    assert found.scaled_from == whole.pixels.shape[:2]
    assert found.orientation_applied == whole.orientation_applied
    height, width, _ = found.pixels.shape
    assert np.abs(found.pixels - shrunk(whole.pixels, width, height)).mean() < 3


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_gray_ones_and_inks_are_scaled_too(mode: str) -> None:
    file = io.BytesIO()
    Pillow.fromarray(PHOTO).convert(mode).save(file, "JPEG", quality=92)
    data = file.getvalue()

    found, whole = read(data, 150), read(data, None)

    assert found.pixels.shape == (225, 300, 3)
    assert np.abs(found.pixels - shrunk(whole.pixels, 300, 225)).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
def test_other_formats_are_decoded_at_their_own_size(kind: str) -> None:
    data = by_pillow(PHOTO, kind)

    assert read(data, 150).scaled_from is None
    assert decoding_bytes(data, MOST, 150) == decoding_bytes(data, MOST)


def test_a_progressive_one_is_scaled() -> None:
    assert read(by_pillow(PHOTO, "JPEG", progressive=True), 150).pixels.shape == (225, 300, 3)


@pytest.mark.parametrize("end", [0.3, 0.9])
def test_a_truncated_one_is_refused_as_when_it_is_decoded_whole(end: float) -> None:
    cut = JPEG[: int(len(JPEG) * end)]

    with pytest.raises(UnreadableImage, match="x: the JPEG is truncated or damaged: expected 1200 x 900"):
        read(cut, 150)


def test_the_limit_on_pixels_is_about_the_photo() -> None:
    with pytest.raises(UnreadableImage, match="MAX_IMAGE_PIXELS=1000000"):
        read_image(JPEG, max_pixels=1_000_000, name="x", longest=60)
    assert decoding_bytes(JPEG, 1_000_000, 60) == 0


def test_there_has_to_be_room_for_the_pixels_that_are_decoded_only() -> None:
    assert decoding_bytes(JPEG, MOST, 150) == read(JPEG, 150).pixels.nbytes == 300 * 225 * 3
    assert decoding_bytes(JPEG, MOST) == 1200 * 900 * 3


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(16, 8192))
def test_neither_side_is_ever_less_than_what_a_model_is_shown(height: int, width: int, longest: int) -> None:
    high, wide = decoded_size(height, width, longest)

    assert (high, wide) == (height, width) or (min(high, wide) >= longest and 2 * high <= height + 1)
    assert decoded_size(width, height, longest) == (wide, high)
