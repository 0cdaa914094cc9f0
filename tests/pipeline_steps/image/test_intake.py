"""Picture intake against a real file of each kind; `picture_files.py` writes those that Pillow does not."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pillow_heif
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from picture_files import bombs, jpeg_saying, mosaic_jpeg, png, png_chunk, tiff
from PIL import Image

from pipeline_steps.errors import UnreadableImage
from pipeline_steps.image.headers import exif_orientation, jpeg_facts
from pipeline_steps.image.intake import DecodedImage, fresh, read_image
from pipeline_steps.image.turning import upright

WIDTH, HEIGHT = 48, 32
WHITE = (255, 255, 255)
LOSSLESS_HEIF = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}
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
BACK = {**TURNS, 6: TURNS[8], 8: TURNS[6]}


def picture(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A picture without any symmetry, with a little grain so that no row is like another."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = x * 230 // width, y * 230 // height
    grain = np.random.default_rng(1).integers(0, 10, (height, width))
    channels = (red + grain, green + grain, (red + green) // 2 + grain)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def file_of(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def heif_of(image: Image.Image, orientation: int = 1, **options: object) -> bytes:
    """A lossless HEIF, unless `options` say otherwise; the writer makes a rotation of the orientation."""
    buffer, exif, stored = io.BytesIO(), Image.Exif(), pillow_heif.from_pillow(image)
    exif[0x0112] = orientation
    stored.info["exif"] = exif.tobytes()
    stored.save(buffer, **{**LOSSLESS_HEIF, **options})
    return buffer.getvalue()


def read(data: bytes, max_pixels: int = 1_000_000) -> DecodedImage:
    decoded = read_image(data, max_pixels=max_pixels, name="gs://b/t/x")
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.ndim == 3
    assert decoded.pixels.shape[2] == 3
    assert decoded.pixels.flags.c_contiguous
    assert decoded.pixels.flags.writeable
    assert sorted(decoded.pixels.shape[:2]) == sorted((decoded.source_width, decoded.source_height))
    return decoded


def refusal(data: bytes, max_pixels: int = 1_000_000) -> str:
    with pytest.raises(UnreadableImage) as refused:
        read_image(data, max_pixels=max_pixels, name="gs://b/t/x")
    assert str(refused.value).startswith("gs://b/t/x: ")
    return str(refused.value)


def assert_same(pixels: npt.NDArray[np.uint8], expected: Image.Image, *, tolerance: float = 0) -> None:
    wanted = np.asarray(expected.convert("RGB"))
    assert pixels.shape == wanted.shape
    assert np.abs(pixels.astype(int) - wanted).mean() <= tolerance


# ---------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
        ("TIFF", {"big_tiff": True}),
    ],
)
def test_lossless_formats_come_back_exactly(image_format: str, options: dict[str, object]) -> None:
    decoded = read(file_of(picture(), image_format, **options))
    assert_same(decoded.pixels, picture())
    assert (decoded.format, decoded.orientation_applied) == (image_format, False)
    assert (decoded.source_width, decoded.source_height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"subsampling": "4:4:4"}),
        ("JPEG", {"subsampling": "4:2:2"}),
        ("JPEG", {"keep_rgb": True}),
        ("JPEG", {"restart_marker_rows": 1}),
        ("WEBP", {"quality": 95}),
        ("TIFF", {"compression": "jpeg", "quality": 95}),
    ],
)
def test_lossy_formats_come_back_nearly(image_format: str, options: dict[str, object]) -> None:
    decoded = read(file_of(picture(), image_format, **{"quality": 95, **options}))
    assert_same(decoded.pixels, picture(), tolerance=3)
    assert decoded.format == image_format


@pytest.mark.parametrize("quality", [50, 80, 95])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(77, 65), (200, 1), (1, 1), (325, 243)])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_decoded_as_pillow_decodes_it(
    size: tuple[int, int], subsampling: str, quality: int, progressive: bool
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    shown = Image.blend(picture(*size), Image.fromarray(noise), 0.3)
    data = file_of(shown, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)

    with Image.open(io.BytesIO(data)) as expected:
        wanted = np.asarray(expected).astype(int)
    # The same to the last byte where both bring one libjpeg-turbo; two versions may round differently.
    assert np.abs(read(data).pixels - wanted).max() <= 1


def test_a_lossless_heif_comes_back_exactly_and_a_cameras_nearly() -> None:
    exact, lossy = read(heif_of(picture())), read(heif_of(picture(), quality=95, chroma=420))
    assert_same(exact.pixels, picture())
    assert_same(lossy.pixels, picture(), tolerance=3)
    assert (exact.format, exact.source_width, exact.source_height) == ("HEIF", WIDTH, HEIGHT)


def test_a_heif_of_tiles_as_telephones_write_is_put_together() -> None:
    assert_same(read(FILES["tiled HEIF"]()).pixels, picture(192, 128))


def test_of_a_heif_with_several_pictures_the_primary_one_is_read() -> None:
    several, buffer = pillow_heif.HeifFile(), io.BytesIO()
    for image in (picture().rotate(180), picture()):
        several.add_from_pillow(image)
    several.save(buffer, **LOSSLESS_HEIF, primary_index=1)
    assert_same(read(buffer.getvalue()).pixels, picture())


def test_gif_keeps_its_palette_colours() -> None:
    few = picture().quantize(16)
    assert_same(read(file_of(few, "GIF")).pixels, few)


def test_a_jpeg_of_several_pictures_is_its_first() -> None:
    data = file_of(picture(), "MPO", save_all=True, append_images=[picture().rotate(180)], quality=95)
    decoded = read(data)
    assert decoded.format == "JPEG"
    assert_same(decoded.pixels, picture(), tolerance=3)


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_read(image_format: str) -> None:
    options = {"WEBP": {"lossless": True}, "GIF": {"disposal": 2}}.get(image_format, {})
    first, second = picture().quantize(16), picture().rotate(180).quantize(16)
    if image_format != "GIF":
        first, second = first.convert("RGB"), second.convert("RGB")
    data = file_of(first, image_format, save_all=True, append_images=[second], **options)
    assert_same(read(data).pixels, first)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (7, 13), (129, 257)])
def test_any_shape(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    assert_same(read(file_of(image, "PNG")).pixels, image)
    assert read(file_of(image, "JPEG")).pixels.shape == (shape[1], shape[0], 3)


# ---------------------------------------------------------------------------- colours


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "BMP"])
def test_gray_becomes_three_equal_channels(image_format: str) -> None:
    gray = picture().convert("L")
    pixels = read(file_of(gray, image_format)).pixels
    assert (pixels == pixels[..., :1]).all()
    assert_same(pixels, gray, tolerance=3)


@pytest.mark.parametrize("compression", [None, "group4"])
def test_one_bit_is_black_and_white(compression: str | None) -> None:
    bits = picture().convert("1")
    assert_same(read(file_of(bits, "TIFF", compression=compression)).pixels, bits)
    assert_same(read(file_of(bits, "PNG")).pixels, bits)


def test_cmyk_of_adobe_is_inverted_and_of_others_is_not() -> None:
    inks = [np.full((1, 1), ink, np.uint8) for ink in (200, 100, 50, 30)]
    plain = mosaic_jpeg(inks, [(1, 1)] * 4, ids=b"\x01\x02\x03\x04")
    adobe = mosaic_jpeg(inks, [(1, 1)] * 4, ids=b"\x01\x02\x03\x04", adobe_transform=0)
    assert read(plain).pixels[0, 0] == pytest.approx(
        [55 * 225 / 255, 155 * 225 / 255, 205 * 225 / 255], abs=1
    )
    assert read(adobe).pixels[0, 0] == pytest.approx([200 * 30 / 255, 100 * 30 / 255, 50 * 30 / 255], abs=1)


def test_ycck_is_read_as_pillow_reads_it() -> None:
    inks = [np.full((1, 1), ink, np.uint8) for ink in (200, 110, 140, 90)]
    data = mosaic_jpeg(inks, [(1, 1)] * 4, ids=b"\x01\x02\x03\x04", adobe_transform=2)
    with Image.open(io.BytesIO(data)) as expected:
        assert_same(read(data).pixels, expected, tolerance=1)


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_cmyk_files_of_pillow_look_like_the_picture(image_format: str) -> None:
    decoded = read(file_of(picture().convert("CMYK"), image_format, quality=95))
    assert_same(decoded.pixels, picture(), tolerance=4)


@pytest.mark.parametrize("factors", [(3, 1), (1, 3), (4, 2)])
def test_subsampling_that_simplejpeg_refuses_is_read_by_pillow(factors: tuple[int, int]) -> None:
    wide, high = factors
    bright = (np.arange(wide * high, dtype=np.uint8) * 20 + 60).reshape(high, wide)
    neutral = np.full((1, 1), 128, np.uint8)
    pixels = read(mosaic_jpeg([bright, neutral, neutral], [factors, (1, 1), (1, 1)])).pixels
    assert np.abs(pixels[::8, ::8, 0].astype(int) - bright).max() <= 1


def test_sixteen_bits_become_eight_by_the_high_byte() -> None:
    samples = np.array([[0, 255, 256, 32768], [65279, 65280, 65535, 257]], np.uint16)
    expected = (samples >> 8).astype(np.uint8)
    as_png = png(
        4, 2, depth=16, colour=0, rows=b"".join(b"\x00" + row.astype(">u2").tobytes() for row in samples)
    )
    for data in (as_png, tiff(samples, photometric=1), tiff(samples, photometric=1, order=">")):
        assert (read(data).pixels == expected[..., None]).all()
    assert (read(tiff(samples, photometric=0)).pixels == 255 - expected[..., None]).all()


def test_sixteen_bit_colour_becomes_eight_by_the_high_byte() -> None:
    samples = np.arange(24, dtype=np.uint16).reshape(2, 4, 3) * 2800
    expected = (samples >> 8).astype(np.uint8)
    as_png = png(
        4, 2, depth=16, colour=2, rows=b"".join(b"\x00" + row.astype(">u2").tobytes() for row in samples)
    )
    for data in (as_png, tiff(samples, photometric=2), tiff(samples, photometric=2, order=">")):
        assert (read(data).pixels == expected).all()


def test_a_heif_of_more_bits_gray_or_see_through_becomes_rgb_as_others_do() -> None:
    samples = (np.arange(64 * 64 * 3, dtype=np.uint32) * 5 % 65536).astype("<u2").reshape(64, 64, 3)
    buffer = io.BytesIO()
    deep = pillow_heif.from_bytes("RGB;16", (64, 64), samples.tobytes())
    deep.save(buffer, **LOSSLESS_HEIF)
    assert (read(buffer.getvalue()).pixels == samples >> 8).all()
    assert_same(read(heif_of(picture().convert("L"))).pixels, picture().convert("L"))
    see_through = Image.new("RGBA", (64, 64), (100, 100, 100, 128))
    assert read(heif_of(see_through)).pixels[0, 0].tolist() == pytest.approx([177] * 3, abs=1)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_white_are_refused(mode: str) -> None:
    image = Image.fromarray(np.full((4, 4), 1e6, np.int32 if mode == "I" else np.float32))
    assert "expected 8 or 16" in refusal(file_of(image, "TIFF"))


@pytest.mark.parametrize(("image_format", "mode"), [
    ("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA"), ("TIFF", "RGBA"), ("TIFF", "LA"),
])  # fmt: skip
def test_transparency_is_composed_on_white(image_format: str, mode: str) -> None:
    see_through = Image.new(mode, (3, 1), (100, 255) if mode == "LA" else (100, 100, 100, 255))
    see_through.putpixel((1, 0), (100, 128) if mode == "LA" else (100, 100, 100, 128))
    see_through.putpixel((2, 0), (100, 0) if mode == "LA" else (100, 100, 100, 0))
    options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
    pixels = read(file_of(see_through, image_format, **options)).pixels
    assert pixels[0, :, 0].tolist() == pytest.approx([100, 177, 255], abs=1)


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(image_format: str) -> None:
    few = Image.new("P", (2, 1))
    few.putpalette([10, 20, 30, 40, 50, 60])
    few.putpixel((1, 0), 1)
    pixels = read(file_of(few, image_format, transparency=1)).pixels
    assert pixels[0].tolist() == [[10, 20, 30], list(WHITE)]


def test_half_transparent_palette_entries_are_composed() -> None:
    few = Image.new("P", (2, 1))
    few.putpalette([10, 20, 30, 40, 50, 60])
    few.putpixel((1, 0), 1)
    pixels = read(file_of(few, "PNG", transparency=bytes((255, 128)))).pixels
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[0, 1].tolist() == pytest.approx([147, 152, 157], abs=1)


def test_a_transparent_colour_is_white() -> None:
    row = b"\x00" + bytes((10, 20, 30)) + bytes((40, 50, 60))
    keyed = png(2, 1, depth=8, colour=2, rows=row, before=png_chunk(b"tRNS", bytes((0, 40, 0, 50, 0, 60))))
    assert read(keyed).pixels[0].tolist() == [[10, 20, 30], list(WHITE)]
    gray = png(2, 1, depth=16, colour=0, rows=b"\x00\x20\x00\x30\x00", before=png_chunk(b"tRNS", b"\x30\x00"))
    assert read(gray).pixels[0].tolist() == [[0x20] * 3, list(WHITE)]


# ---------------------------------------------------------------------------- orientation


def oriented(image: Image.Image, orientation: int, image_format: str, **options: object) -> bytes:
    """The file of a camera that was held so: turned pixels, and a tag that says how."""
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    exif[0x0112] = orientation
    stored = image.transpose(BACK[orientation]) if orientation in BACK else image
    return file_of(stored, image_format, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_however_the_camera_was_held_the_picture_is_upright(
    image_format: str, options: dict[str, object], orientation: int
) -> None:
    decoded = read(oriented(picture(), orientation, image_format, **options))
    assert_same(decoded.pixels, picture(), tolerance=3 if image_format == "JPEG" else 0)
    assert decoded.orientation_applied == (orientation != 1)
    stored = (HEIGHT, WIDTH) if orientation >= 5 else (WIDTH, HEIGHT)
    assert (decoded.source_width, decoded.source_height) == stored


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heif_is_turned_by_its_own_rotation_and_not_again_by_exif(orientation: int) -> None:
    stored = picture().transpose(BACK[orientation]) if orientation in BACK else picture()
    decoded = read(heif_of(stored, orientation))
    assert_same(decoded.pixels, picture())
    assert (decoded.source_width, decoded.source_height, decoded.orientation_applied) == (
        WIDTH,
        HEIGHT,
        False,
    )


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    orientation=st.sampled_from(sorted(TURNS)),
    seed=st.integers(0, 9),
)
def test_turning_agrees_with_pillow_at_any_size(width: int, height: int, orientation: int, seed: int) -> None:
    stored = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    expected = np.asarray(Image.fromarray(stored).transpose(TURNS[orientation]))
    turned = upright(stored, orientation)
    assert turned.flags.c_contiguous
    assert np.array_equal(turned, expected)


@pytest.mark.parametrize(
    "data",
    [
        oriented(picture(), 6, "JPEG"),
        oriented(picture(), 3, "PNG"),
        file_of(picture().convert("CMYK"), "JPEG"),
        file_of(picture(), "TIFF"),
    ],
    ids=["JPEG", "PNG", "inks", "TIFF"],
)
def test_pixels_are_decoded_and_turned_in_the_memory_they_are_given(data: bytes) -> None:
    given = []

    def memory(height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
        given.append(fresh(height, width, channels))
        return given[-1]

    decoded = read_image(data, max_pixels=1_000_000, name="x", memory=memory)

    assert np.shares_memory(decoded.pixels, given[-1])
    assert np.array_equal(decoded.pixels, read(data).pixels)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for image_format in ("JPEG", "PNG", "TIFF"):
        assert not read(file_of(picture(), image_format, exif=exif)).orientation_applied


def test_a_png_may_say_its_orientation_behind_its_pixels() -> None:
    plain, exif = file_of(picture(), "PNG"), Image.Exif()
    exif[0x0112] = 3
    chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\x00\x00"))
    decoded = read(plain[:-12] + chunk + plain[-12:])
    assert decoded.orientation_applied
    assert_same(decoded.pixels, picture().transpose(TURNS[3]))


@given(st.binary(max_size=60).map(lambda rest: b"Exif\x00\x00II*\x00" + rest))
def test_broken_exif_is_no_reason_to_refuse_a_picture(exif: bytes) -> None:
    assert exif_orientation(exif) in range(1, 9)
    plain = file_of(picture(), "JPEG")
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    assert sorted(read(plain[:2] + segment + plain[2:]).pixels.shape) == [3, HEIGHT, WIDTH]


# ---------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "found an empty file"),
        (b"dear nursery, here are the photos", "found text that begins 'dear nursery"),
        (b"<!DOCTYPE html><html><body>Sign in", "found an HTML page"),
        (b'{"error": {"code": 404}}', "found JSON"),
        (b"%PDF-1.7 ...", "found a PDF document"),
        (b"PK\x03\x04....", "found a zip archive"),
        (b"\x00\x00\x00\x18ftypmp42....", "found a media file of brand 'mp42'"),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08\x09", "found 9 bytes that begin 01 02 03 04 05 06 07 08"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(data: bytes, found: str) -> None:
    message = refusal(data)
    assert "expected a picture (JPEG, PNG, WEBP, TIFF, GIF, BMP, HEIF)" in message
    assert found in message


def test_heif_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as the import system has it that it is not there
    assert refusal(FILES["HEIF"]()) == (
        "gs://b/t/x: expected one of JPEG, PNG, WEBP, TIFF, GIF, BMP, found HEIF: "
        "install mlworker[heif] to read it"
    )


FILES: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: file_of(picture(), "JPEG"),
    "progressive JPEG": lambda: file_of(picture(), "JPEG", progressive=True),
    "gray JPEG": lambda: file_of(picture().convert("L"), "JPEG"),
    "CMYK JPEG": lambda: file_of(picture().convert("CMYK"), "JPEG"),
    "turned JPEG": lambda: oriented(picture(), 6, "JPEG"),
    "PNG": lambda: file_of(picture(), "PNG"),
    "palette PNG": lambda: file_of(picture().quantize(16), "PNG", transparency=3),
    "16-bit PNG": lambda: png(48, 32, depth=16, colour=0, rows=(b"\x00" + b"\x12\x34" * 48) * 32),
    "RGBA PNG": lambda: file_of(picture().convert("RGBA"), "PNG"),
    "turned PNG": lambda: oriented(picture(), 6, "PNG"),
    "WEBP": lambda: file_of(picture(), "WEBP"),
    "lossless WEBP": lambda: file_of(picture(), "WEBP", lossless=True),
    "turned WEBP": lambda: oriented(picture(), 6, "WEBP"),
    "TIFF": lambda: file_of(picture(), "TIFF"),
    "LZW TIFF": lambda: file_of(picture(), "TIFF", compression="tiff_lzw"),
    "JPEG TIFF": lambda: file_of(picture(), "TIFF", compression="jpeg"),
    "16-bit TIFF": lambda: tiff(np.full((32, 48), 4660, np.uint16), photometric=1),
    "turned TIFF": lambda: oriented(picture(), 6, "TIFF"),
    "GIF": lambda: file_of(picture(), "GIF"),
    "animated GIF": lambda: file_of(picture(), "GIF", save_all=True, append_images=[picture().rotate(90)]),
    "BMP": lambda: file_of(picture(), "BMP"),
    "palette BMP": lambda: file_of(picture().quantize(16), "BMP"),
    "HEIF": lambda: heif_of(picture()),
    "turned HEIF": lambda: heif_of(picture(), 6),
    "tiled HEIF": lambda: heif_of(picture(192, 128), tile_size=64),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_refused_unless_only_its_trailer_is_missing(kind: str, kept: float) -> None:
    whole = FILES[kind]()
    expected = read(whole).pixels
    try:
        decoded = read(whole[: int(len(whole) * kept)])
    except UnreadableImage as refused:
        message = str(refused)
    else:
        assert kept > 0.3
        assert np.array_equal(decoded.pixels, expected)
        return
    assert any(word in message for word in ("truncated", "cut off", "damaged", "found"))


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "gray JPEG", "CMYK JPEG", "turned JPEG"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.95])
def test_a_truncated_jpeg_with_an_end_is_not_half_gray(kind: str, kept: float) -> None:
    whole = FILES[kind]()
    pixels = whole.index(b"\xff\xda") + 20
    cut = pixels + int((len(whole) - pixels) * kept)
    assert "truncated or damaged" in refusal(whole[:cut] + b"\xff\xd9")


@pytest.mark.parametrize(("width", "height"), [(48, 64), (96, 32), (48, 16), (24, 32)])
def test_a_jpeg_that_lies_about_its_size_is_refused(width: int, height: int) -> None:
    data = bytearray(FILES["JPEG"]())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    assert f"expected {width} x {height} pixels" in refusal(bytes(data))


def test_a_png_that_lies_about_its_size_is_refused() -> None:
    rows = (b"\x00" + b"\x80" * 144) * 32
    assert read(png(48, 32, depth=8, colour=2, rows=rows)).pixels.all()
    for height in (31, 33, 64):
        message = refusal(png(48, height, depth=8, colour=2, rows=rows))
        assert f"lies about its size: 48 x {height} pixels" in message
    for width in (47, 49, 96):
        assert "the PNG" in refusal(png(width, 32, depth=8, colour=2, rows=rows))


def heif_saying(width: int, height: int, image: Image.Image) -> bytes:
    """The file of a picture whose sides are multiples of 64, with another size in its header."""
    honest, other = (b"ispe" + struct.pack(">III", 0, *size) for size in (image.size, (width, height)))
    whole = heif_of(image)
    assert whole.count(honest) == 1
    return whole.replace(honest, other)


@pytest.mark.parametrize(("width", "height"), [(48, 32), (128, 192), (192, 64), (4096, 4096)])
def test_a_heif_that_lies_about_its_size_is_refused(width: int, height: int) -> None:
    message = refusal(heif_saying(width, height, picture(192, 128)), max_pixels=100_000_000)
    assert "is truncated or damaged, its decoder says: " in message


def test_a_heif_too_large_by_its_header_is_not_decoded() -> None:
    message = refusal(heif_saying(30_000, 30_000, picture(64, 64)), max_pixels=200_000_000)
    assert "30000 x 30000 = 900000000 pixels, more than MAX_IMAGE_PIXELS=200000000" in message


def test_a_heif_that_hides_a_large_picture_behind_a_small_header_is_not_decoded() -> None:
    message = refusal(heif_saying(48, 32, Image.new("RGB", (1024, 1024), "green")), max_pixels=1536)
    assert "Image size 1024x1024 exceeds the maximum" in message


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (8, 8), (9, 17)])
def test_interlaced_pngs_of_any_depth_are_whole(size: tuple[int, int], depth: int) -> None:
    width, height = size
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    rows = b""
    for left, top, right, down in passes:
        columns = len(range(left, width, right))
        for _ in range(top, height, down):
            rows += (b"\x00" + b"\xff" * -(-columns * depth // 8)) if columns else b""
    whole = png(width, height, depth=depth, colour=0, rows=rows, interlaced=True)
    assert (read(whole).pixels == 255).all()
    assert "truncated" in refusal(png(width, height, depth=depth, colour=0, rows=rows[:-1], interlaced=True))


@pytest.mark.parametrize("size", [(0, 32), (48, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    assert "at least 1 x 1" in refusal(png(*size, depth=8, colour=2, rows=b""))
    assert "at least 1 x 1" in refusal(jpeg_saying(*size))


@pytest.mark.parametrize("padding", [1, 3])
def test_a_camera_that_pads_before_the_end_is_forgiven(padding: int) -> None:
    image = picture(400, 300)
    whole = file_of(image, "JPEG", quality=95)
    assert_same(read(whole[:-2] + b"\x00" * padding + whole[-2:]).pixels, image, tolerance=3)


def test_what_follows_a_jpeg_is_ignored() -> None:
    assert_same(read(FILES["JPEG"]() + b"a film of the photo" * 99).pixels, picture(), tolerance=5)


# ---------------------------------------------------------------------------- size and time


@pytest.mark.parametrize("kind", [kind for kind in FILES if "turned" not in kind and "tiled" not in kind])
def test_a_picture_over_the_limit_says_both_numbers_and_the_setting(kind: str) -> None:
    read(FILES[kind](), max_pixels=WIDTH * HEIGHT)
    message = refusal(FILES[kind](), max_pixels=WIDTH * HEIGHT - 1)
    assert message == "gs://b/t/x: 48 x 32 = 1536 pixels, more than MAX_IMAGE_PIXELS=1535"


@pytest.mark.parametrize("kind", bombs())
def test_a_bomb_is_refused_by_its_header(kind: str) -> None:
    assert "more than MAX_IMAGE_PIXELS=200000000" in refusal(bombs()[kind], max_pixels=200_000_000)


def test_bombs_are_refused_without_allocating() -> None:
    """In a process of its own that may not grow by more than 100 MB: the smallest bomb wants 4 GB."""
    script = """
import re, resource, sys
from picture_files import bombs
from pipeline_steps.errors import UnreadableImage
from pipeline_steps.image.intake import read_image
now = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (now + 100_000_000,) * 2)
for kind, data in bombs().items():
    try:
        read_image(data, max_pixels=200_000_000, name=kind)
    except UnreadableImage as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("MAX_IMAGE_PIXELS") == len(bombs())


def test_tiles_larger_than_a_picture_may_be_are_refused() -> None:
    one_tile = tiff(np.zeros((4, 4), np.uint16), photometric=1, tile=1 << 16)
    assert "TIFF tiles of 65536 x 65536 pixels" in refusal(one_tile)


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    progressive = file_of(picture(), "JPEG", progressive=True)
    last = progressive.rindex(b"\xff\xda")
    assert "scans" in refusal(progressive[:-2] + progressive[last:-2] * 1000 + b"\xff\xd9")


def with_its_scan_repeated(jpeg: bytes, times: int) -> bytes:
    return jpeg[:-2] + jpeg[jpeg.rindex(b"\xff\xda") : -2] * times + b"\xff\xd9"


def test_a_jpeg_that_has_one_scan_and_is_followed_by_others_is_damaged() -> None:
    said = refusal(with_its_scan_repeated(file_of(picture(), "JPEG"), 1000))

    assert "scan" in said


def test_scans_are_counted_where_a_decoder_goes_over_all_of_them() -> None:
    at_once = file_of(picture(), "JPEG")
    start = at_once.rindex(b"\xff\xda")
    one_by_one = at_once[: start + 4] + b"\x01" + at_once[start + 5 :]  # components in the scan
    progressive = file_of(picture(), "JPEG", progressive=True)

    assert [jpeg_facts(with_its_scan_repeated(data, 5)).scans for data in (at_once, one_by_one)] == [1, 6]
    assert jpeg_facts(with_its_scan_repeated(progressive, 5)).scans == jpeg_facts(progressive).scans + 5


@pytest.mark.parametrize("kind", ["JPEG", "CMYK JPEG", "PNG", "RGBA PNG", "GIF", "WEBP", "BMP"])
def test_pillows_own_limit_is_neither_used_nor_changed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the real limit the same happens at 89 megapixels; 64 rows are copied at a time."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8_000)
    image = picture(100, 100)
    mode = {"CMYK JPEG": "CMYK", "RGBA PNG": "RGBA"}.get(kind, "RGB")
    data = file_of(image.convert(mode), kind.split()[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(data).pixels.shape == (100, 100, 3)
    assert Image.MAX_IMAGE_PIXELS == 8_000


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
def test_a_tiff_of_more_than_twice_pillows_own_limit_is_read(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 13_000
    )  # 64 rows of it, which are copied at a time, are less
    image = picture(200, 200)
    for orientation in (1, 6):
        data = file_of(image, "TIFF", tiffinfo={0x0112: orientation}, **options)
        turned = image.transpose(Image.Transpose.ROTATE_270) if orientation == 6 else image
        assert_same(read(data).pixels, turned)


def test_a_jpeg_needs_no_more_memory_than_its_pixels() -> None:
    """A fresh process, since the peak never sinks: 24 megapixels may cost 1.1 times their bytes."""
    script = """
import re, sys
from pathlib import Path
from pipeline_steps.image.intake import read_image
def peak():  # not getrusage: its peak begins with what the parent held
    return int(re.search("VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
data = sys.stdin.buffer.read()
before = peak()
decoded = read_image(data, max_pixels=100_000_000, name="x")
print((peak() - before) / decoded.pixels.nbytes)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=file_of(Image.new("RGB", (6000, 4000), "green"), "JPEG"),
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert float(done.stdout) < 1.1


# ---------------------------------------------------------------------------- hostile bytes


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    data = bytearray(FILES[draw(st.sampled_from(sorted(FILES)))]())
    for _ in range(draw(st.integers(1, 6))):
        near_header = draw(st.booleans())
        at = draw(st.integers(0, max(0, min(len(data), 150 if near_header else len(data)) - 1)))
        match draw(st.sampled_from(["overwrite", "flip", "cut", "insert", "end"])):
            case "overwrite":
                new = draw(
                    st.sampled_from([b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\x00\x01", b"\x2c"])
                )
                data[at : at + len(new)] = new
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + draw(st.integers(1, 40))]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=20))
            case _:
                del data[at:]
    return bytes(data)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damaged_files())
def test_damaged_files_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    started = time.monotonic()
    try:
        decoded = read(data, max_pixels=100_000)
    except UnreadableImage as refused:
        named = str(refused)
    else:
        named = "gs://b/t/x: read"
        assert decoded.source_width * decoded.source_height <= 100_000
    assert named.startswith("gs://b/t/x: ")
    assert time.monotonic() - started < 5


MAGICS = (
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"II*\x00",
    b"RIFF\x00\x00\x00\x00WEBP",
    b"\x00\x00\x00\x18ftypheic",
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(MAGICS), st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(magic: bytes, rest: bytes) -> None:
    with contextlib.suppress(UnreadableImage):
        read(magic + rest, max_pixels=100_000)
