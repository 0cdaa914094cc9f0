"""Large TIFFs read window by window show what they show when they are decoded whole."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline_steps.errors import UnreadableImage
from pipeline_steps.image.intake import read_image
from pipeline_steps.image.tiff_blocks import Strange, blocks_of
from pipeline_steps.image.tiff_windows import open_windows
from pipeline_steps.pictures import Window

WIDTH, HEIGHT = 150, 210
LINES = 16
Samples = npt.NDArray[Any]


def samples(channels: int, depth: type[np.generic] = np.uint8) -> Samples:
    """Return a smooth picture with some noise, (height, width, channels)."""
    rng = np.random.default_rng(3)
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(down / (9 + 3 * c)) + np.cos(across / (7 + 2 * c)) for c in range(channels)]
    scale = np.iinfo(depth).max
    values = np.stack(waves, axis=2) / 4 + 0.5 + rng.uniform(-0.02, 0.02, (HEIGHT, WIDTH, channels))
    return (values.clip(0, 1) * scale).astype(depth)


def tiff(
    stored: Samples,
    *,
    tile: tuple[int, int] | None = None,
    photometric: int = 2,
    extra: int | None = None,
    deflate: bool = False,
    big: bool = False,
    order: str = "<",
    orientation: int = 1,
    planes: bool = False,
    more: Mapping[int, tuple[int, ...]] | None = None,
) -> bytes:
    """Return a TIFF of strips of 16 lines, or of tiles (width, height)."""
    height, width, channels = stored.shape
    wide, high = tile or (width, LINES)
    swapped = stored.astype(stored.dtype.newbyteorder(order))
    parts = [swapped[..., c : c + 1] for c in range(channels)] if planes else [swapped]
    bodies = []
    for part in parts:
        for y in range(0, height, high):
            for x in range(0, width, wide):
                block = part[y : y + high, x : x + wide]
                if tile:
                    edges = (0, high - block.shape[0]), (0, wide - block.shape[1]), (0, 0)
                    block = np.pad(block, edges)
                bodies.append(zlib.compress(block.tobytes()) if deflate else block.tobytes())
    fields: dict[int, tuple[int, ...]] = {
        256: (width,),
        257: (height,),
        258: (8 * stored.itemsize,) * channels,
        259: (8 if deflate else 1,),
        262: (photometric,),
        274: (orientation,),
        277: (channels,),
        284: (2 if planes else 1,),
    }
    if extra is not None:
        fields[338] = (extra,)
    fields |= {322: (wide,), 323: (high,)} if tile else {278: (high,)}
    fields |= {325 if tile else 279: tuple(map(len, bodies)), 324 if tile else 273: (0,) * len(bodies)}
    fields |= more or {}
    return _laid_out(fields, bodies, 324 if tile else 273, order, big)


def _laid_out(
    fields: dict[int, tuple[int, ...]], bodies: list[bytes], places: int, order: str, big: bool
) -> bytes:
    wide, entry, room = ("Q", "HHQ", 8) if big else ("L", "HHL", 4)
    start = (b"II" if order == "<" else b"MM") + (
        struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HL", 42, 8)
    )
    start += struct.pack(f"{order}{'Q' if big else 'H'}", len(fields))
    at = len(start) + len(fields) * (struct.calcsize(f"={entry}") + room) + room
    first = at + sum(len(values) * 4 for values in fields.values() if len(values) * 4 > room)
    ends = first + np.cumsum([0, *map(len, bodies)])
    fields[places] = tuple(ends[:-1].tolist())
    entries, long_ones = b"", b""
    for tag, values in sorted(fields.items()):
        short = tag in {258, 259, 262, 274, 277, 284, 320, 338, 317, 332}
        value = struct.pack(f"{order}{len(values)}{'H' if short else 'L'}", *values)
        if len(value) > room:
            place = struct.pack(f"{order}{wide}", at + len(long_ones))
            long_ones += value.ljust(len(values) * 4, b"\0")
            value = place
        entries += struct.pack(f"{order}{entry}", tag, 3 if short else 4, len(values)) + value.ljust(
            room, b"\0"
        )
    return (start + entries + b"\0" * room + long_ones).ljust(first, b"\0") + b"".join(bodies)


def by_pillow(mode: str, compression: str, **options: Any) -> Callable[[], bytes]:
    """Return what makes a TIFF that Pillow compresses, in strips of 16 lines."""

    def made() -> bytes:
        values, buffer = samples(4), io.BytesIO()
        colours = Image.fromarray(values[..., :3])
        match mode:
            case "CMYK":
                picture = Image.frombytes("CMYK", colours.size, values.tobytes())
            case "RGBA" | "LA":
                picture = Image.fromarray(values).convert(mode)
            case _:
                picture = colours.convert(mode)
        tags = {278: LINES} | options.pop("tags", {})
        picture.save(buffer, "TIFF", compression=compression, tiffinfo=tags, **options)
        return buffer.getvalue()

    return made


FILES: dict[str, Callable[[], bytes]] = {
    "strips": lambda: tiff(samples(3)),
    "tiles": lambda: tiff(samples(3), tile=(32, 48)),
    "deflated tiles": lambda: tiff(samples(3), tile=(32, 48), deflate=True),
    "tiles of a BigTIFF": lambda: tiff(samples(3), tile=(32, 32), deflate=True, big=True),
    "strips, big-endian": lambda: tiff(samples(3), order=">"),
    "gray": lambda: tiff(samples(1), photometric=1, tile=(32, 32)),
    "gray, white is 0": lambda: tiff(samples(1), photometric=0, deflate=True),
    "16 bits": lambda: tiff(samples(1, np.uint16), photometric=1, tile=(32, 32)),
    "16 bits, big-endian": lambda: tiff(samples(1, np.uint16), photometric=1, order=">"),
    "16 bits, white is 0": lambda: tiff(samples(1, np.uint16), photometric=0, tile=(32, 32)),
    "16 bits of colour": lambda: tiff(samples(3, np.uint16), tile=(32, 32), deflate=True),
    "alpha": lambda: tiff(samples(4), extra=2, tile=(32, 32), deflate=True),
    "alpha multiplied in": lambda: tiff(samples(4), extra=1, tile=(32, 32)),
    "alpha of a BigTIFF": lambda: tiff(samples(4), extra=2, big=True),
    "inks": lambda: tiff(samples(4), photometric=5, tile=(32, 32), deflate=True),
    "a palette": lambda: tiff(
        samples(1), photometric=3, tile=(32, 32), more={320: tuple(range(0, 65536, 256)) * 3}
    ),
    "planes": lambda: tiff(samples(3), planes=True, tile=(32, 32), deflate=True),
    "LZW": by_pillow("RGB", "tiff_lzw"),
    "LZW and a predictor": by_pillow("RGB", "tiff_lzw", tags={317: 2}),
    "PackBits": by_pillow("RGB", "packbits"),
    "JPEG": by_pillow("RGB", "jpeg", quality=90),
    "gray JPEG": by_pillow("L", "jpeg", quality=90),
    "JPEG inks": by_pillow("CMYK", "jpeg", quality=90),
    "Deflate with alpha": by_pillow("RGBA", "tiff_adobe_deflate"),
    "gray with alpha": by_pillow("LA", "tiff_adobe_deflate"),
    "a palette by Pillow": by_pillow("P", "tiff_adobe_deflate"),
    "two levels": by_pillow("1", "tiff_adobe_deflate"),
}


def windows(data: bytes, **options: Any) -> Window:
    found = open_windows(data, **{"max_pixels": 1_000_000, "name": "x", "least_pixels": 1} | options)
    assert found is not None
    return found.whole


def whole(data: bytes) -> npt.NDArray[np.uint8]:
    return read_image(data, max_pixels=1_000_000, name="x").pixels


def assert_shows_the_same(data: bytes) -> None:
    seen, wanted = windows(data), whole(data)
    assert len(blocks_of(data)) > 10
    assert seen.shape == wanted.shape
    height, width, _ = seen.shape
    for top, bottom, left, right in (
        (0, height, 0, width),
        (0, 1, 0, 1),
        (height - 1, height, width - 1, width),
        (13, 75, 20, 101),
        (31, 33, 31, 33),
    ):
        np.testing.assert_array_equal(seen[top:bottom, left:right].read(), wanted[top:bottom, left:right])
    part = seen[10:100, 20:90][5:40, 6:50]
    assert part.shape == (35, 44, 3)
    np.testing.assert_array_equal(part.read(), wanted[15:50, 26:70])


@pytest.mark.parametrize("kind", FILES)
def test_windows_show_what_the_whole_picture_shows(kind: str) -> None:
    assert_shows_the_same(FILES[kind]())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_windows_of_a_turned_picture_are_upright(orientation: int) -> None:
    assert_shows_the_same(tiff(samples(3), tile=(32, 48), orientation=orientation))


def test_windows_know_the_limit_on_pixels() -> None:
    with pytest.raises(
        UnreadableImage, match="x: 150 x 210 = 31500 pixels, more than MAX_IMAGE_PIXELS=31499"
    ):
        windows(FILES["strips"](), max_pixels=31_499)


def test_a_damaged_block_is_refused_when_it_is_looked_at() -> None:
    data = bytearray(tiff(samples(3), tile=(32, 32), deflate=True))
    data[-40:] = b"\xff" * 40
    seen = windows(bytes(data))

    assert seen[0:32, 0:32].read().shape == (32, 32, 3)
    with pytest.raises(UnreadableImage, match=r"x: block 34: the TIFF .* is truncated or damaged"):
        seen[HEIGHT - 1 : HEIGHT, WIDTH - 1 : WIDTH].read()


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("no TIFF", lambda: b"\x89PNG\r\n\x1a\n" + b"\0" * 100),
        ("cut off", lambda: FILES["strips"]()[:-1]),
        ("only a header", lambda: FILES["strips"]()[:8]),
        ("a directory that is cut off", lambda: FILES["strips"]()[:60]),
        ("32 bits", lambda: tiff(samples(1, np.uint32), photometric=1, more={339: (1,)})),
        ("floats", lambda: tiff(samples(1, np.uint16), photometric=1, more={339: (3,)})),
        ("an old JPEG", lambda: tiff(samples(3), more={259: (6,)})),
        ("more strips than there are", lambda: tiff(samples(3), more={278: (HEIGHT,)})),
        ("one large tile", lambda: tiff(np.zeros((520, 520, 1), np.uint8), photometric=1, tile=(520, 520))),
        ("a long line", lambda: tiff(np.zeros((1, 90_000, 1), np.uint8), photometric=1, tile=(16, 16))),
        ("strips on their side", lambda: tiff(samples(3), orientation=6)),
        (
            "a tag that leads out of the file",
            lambda: FILES["strips"]().replace(b"\x02\x01\x03", b"\x02\x01\x0c", 1),
        ),
        ("no width", lambda: tiff(samples(3), more={256: (0,)})),
    ],
)
def test_what_cannot_be_read_by_windows_is_left_to_be_decoded_whole(
    why: str, data: Callable[[], bytes]
) -> None:
    assert open_windows(data(), max_pixels=1_000_000, name=why, least_pixels=1) is None


def test_an_ordinary_picture_is_decoded_whole() -> None:
    assert open_windows(FILES["strips"](), max_pixels=1_000_000, name="x") is None


def test_many_threads_read_the_windows_of_one_picture() -> None:
    data = tiff(samples(3), tile=(32, 32), deflate=True)
    seen, wanted = windows(data), whole(data)
    places = [(y, x) for y in range(0, HEIGHT - 40, 20) for x in range(0, WIDTH - 40, 20)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda at: seen[at[0] : at[0] + 40, at[1] : at[1] + 40].read(), places))
    for (y, x), pixels in zip(places, found, strict=True):
        np.testing.assert_array_equal(pixels, wanted[y : y + 40, x : x + 40])


MEMORY = """
from pathlib import Path
from pipeline_steps.geometry import tiles
from pipeline_steps.image.intake import read_image
from pipeline_steps.image.tiff_windows import open_windows
from pipeline_steps.pictures import Window

def peak():
    # Not getrusage: its peak begins with what the parent held.
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) * 1024

data = Path({path!r}).read_bytes()
read_image(Path({small!r}).read_bytes(), max_pixels=1_000_000, name="x")
before = peak()
picture = open_windows(data, max_pixels=200_000_000, name="x").whole
height, width, _ = picture.shape
seen = 0
for left, top, right, bottom in tiles(width, height, 512, 512, 0.25).tolist():
    seen += int(picture[top:bottom, left:right].read()[::64, ::64].sum() > 0)
print(peak() - before, 3 * width * height, seen)
"""


def test_a_large_picture_is_never_held_whole(tmp_path: Path) -> None:
    block = zlib.compress(np.full((512, 512, 3), 90, np.uint8).tobytes())
    across, down = 20, 10  # 52 megapixels
    fields = {
        256: (across * 512,),
        257: (down * 512,),
        258: (8, 8, 8),
        259: (8,),
        262: (2,),
        274: (1,),
        277: (3,),
    }
    fields |= {
        284: (1,),
        322: (512,),
        323: (512,),
        325: (len(block),) * across * down,
        324: (0,) * across * down,
    }
    (tmp_path / "large.tif").write_bytes(_laid_out(fields, [block] * across * down, 324, "<", False))
    (tmp_path / "small.tif").write_bytes(FILES["deflated tiles"]())
    program = MEMORY.format(path=str(tmp_path / "large.tif"), small=str(tmp_path / "small.tif"))

    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100
    )

    assert ran.returncode == 0, ran.stderr
    grown, whole_picture, seen = map(int, ran.stdout.split())
    assert seen > 300
    assert grown < whole_picture / 2


@st.composite
def damaged_tiffs(draw: st.DrawFn) -> bytes:
    data = bytearray(FILES[draw(st.sampled_from(sorted(FILES)))]())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, (400 if draw(st.booleans()) else len(data)) - 5))
        new = draw(
            st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\1\0"]) | st.binary(max_size=8)
        )
        data[at : at + len(new)] = new
    return bytes(data)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damaged_tiffs())
def test_damaged_files_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        seen = open_windows(data, max_pixels=100_000, name="x", least_pixels=1)
        if seen is not None:
            assert seen.whole.read().shape == seen.whole.shape
    except UnreadableImage as refused:
        assert str(refused).startswith("x: ")  # noqa: PT017


def test_a_bigtiff_whose_directory_is_said_to_lie_beyond_everything_is_refused() -> None:
    whole = FILES["tiles of a BigTIFF"]()
    with pytest.raises(Strange, match="cut off"):
        blocks_of(whole[:8] + b"\xff" * 8 + whole[16:])
