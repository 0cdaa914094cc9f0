"""What a photo costs in memory beside its pixels: `python -m benchmarks.f_memory`.

Every figure is of a process of its own that is ready to work and holds the photo's file: what it grows by at
its peak (the pixels, and all that is needed meanwhile, as the kernel counts it) over the bytes of the pixels.
`--sahi` as in `e_tiles.py`. `python -m benchmarks.f_sam` measures SAM's automatic masks likewise.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.method import Row, Target, parser, write
from benchmarks.processes import line
from consumer.ops.allocator import bound_allocator
from pipeline_steps.artifacts import Pixels
from pipeline_steps.image.encode import encode_jpeg
from pipeline_steps.image.intake import read_image

if TYPE_CHECKING:
    from benchmarks.e_tiles import Sahi

SIZES = {1: (1000, 1000), 12: (3000, 4000), 48: (6000, 8000)}
ON_ITS_SIDE = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
"""EXIF of a telephone held upright: orientation 6."""

SHOWN, LEAST_SCALED = 640, 12
"""Pixels along a side that a detector is shown, and the megapixels from which a photo is scaled for it."""

Work = Callable[[bytes], None]


# ------------------------------------------------------------------ in the process that is measured


@contextmanager
def decoding() -> Iterator[Work]:
    """The worker's decoding."""
    yield lambda file: _discard(_read(file))


@contextmanager
def scaling() -> Iterator[Work]:
    """The worker's decoding for a model whose manifest entry says `decoding: scaled`."""
    yield lambda file: _discard(read_image(file, max_pixels=1 << 30, name="photo", longest=SHOWN).pixels)


@contextmanager
def pillow() -> Iterator[Work]:
    """Pillow into an array, as most do."""
    yield lambda file: _discard(np.asarray(Image.open(io.BytesIO(file))))


@contextmanager
def detecting() -> Iterator[Work]:
    """Decoding, and the step `sahi_detection`, the models warm."""
    from benchmarks.e_tiles import detected, pool  # and with it torch, which nobody needs who only decodes

    with pool() as (runner, models):
        yield lambda file: _discard(runner.run(detected(models, _read(file))))


CASES = {"decoding": decoding, "scaling": scaling, "pillow": pillow, "detecting": detecting}


def _read(file: bytes) -> Pixels:
    return read_image(file, max_pixels=1 << 30, name="photo").pixels


def _discard(_: object) -> None:
    pass


def measured_process(case: str, file: Path) -> None:
    """Get ready, wait, work, wait; the allocator is set as `mlworker run` sets it."""
    bound_allocator()
    data = file.read_bytes()
    with CASES[case]() as work:
        work(jpeg(np.full((64, 64, 3), 90, np.uint8)))  # the decoder's own pages are not the photo's
        print("ready", flush=True)
        sys.stdin.readline()
        work(data)
        print("done", flush=True)
        sys.stdin.readline()


# ------------------------------------------------------------------ in the process that measures


def grown(case: str, file: Path) -> int:
    """Return the bytes a process grows by at its peak."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.f_memory", "--measured", case, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            line(process, case)  # it is ready

            def work() -> None:
                print(file=process.stdin, flush=True)
                line(process, case)  # it is done

            return growth(process.pid, work)
        finally:
            process.kill()


def growth(process: int, work: Callable[[], object]) -> int:
    """Return the bytes by which the process exceeds, during the work, what it has now."""
    Path(f"/proc/{process}/clear_refs").write_text("5")  # forget the highest so far
    before = _memory(process)["VmRSS"]
    work()
    return _memory(process)["VmHWM"] - before


def _memory(process: int) -> Mapping[str, int]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)
            if name in ("VmRSS", "VmHWM")}  # fmt: skip


def jpeg(pixels: Pixels, exif: bytes = b"") -> bytes:
    """Return a photo's file as a telephone writes it."""
    data = encode_jpeg(pixels, 88)
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif if exif else b""
    return data[:2] + segment + data[2:]


def rows(folder: Path, sahi: Sahi | None) -> list[Row]:
    """Measure all cases, two processes at a time: it is no matter of time."""
    from benchmarks.e_tiles import exactly, photo

    found = []
    with ThreadPoolExecutor(2) as threads:
        for megapixels, size in SIZES.items():
            pixels = photo(*size)
            files = {"": folder / f"{megapixels}.jpg", ", held upright": folder / f"{megapixels}-turned.jpg"}
            for file, exif in zip(files.values(), (b"", ON_ITS_SIDE), strict=True):
                file.write_bytes(jpeg(pixels, exif))
            theirs = threads.submit(beside, sahi, pixels, folder) if sahi else None
            tiled = threads.submit(grown, "detecting", files[""])
            scaled = threads.submit(grown, "scaling", files[""]) if megapixels >= LEAST_SCALED else None
            decoded = {
                how: [threads.submit(grown, case, file) for case in ("decoding", "pillow")]
                for how, file in files.items()
            }
            for how, sides in decoded.items():
                ours, pillows = (side.result() / pixels.nbytes for side in sides)
                found.append(
                    Row(
                        "f",
                        f"{megapixels} MP JPEG{how}: decoding ÷ bytes of the pixels",
                        exactly(ours),
                        Target(most=1.1),
                        {"Pillow": pillows},
                    )
                )
            if scaled:
                shown = f"only shown to a model, {SHOWN} pixels along a side"
                found.append(
                    Row(
                        "f",
                        f"{megapixels} MP JPEG, {shown}: decoding ÷ bytes of the pixels",
                        exactly(scaled.result() / pixels.nbytes),
                        Target(most=0.2),
                    )
                )
            found.append(
                Row(
                    "f",
                    f"{megapixels} MP: decoding and detection in tiles ÷ bytes of the pixels",
                    exactly(tiled.result() / pixels.nbytes),
                    Target(most=1.5),
                    {"SAHI": theirs.result()} if theirs else {},
                    sahi.about if sahi else {},
                )
            )
    return found


def beside(sahi: Sahi, pixels: Pixels, folder: Path) -> float:
    """Return what SAHI grows by, its model warm; it reads the pixels as they are, not from a JPEG."""
    file = folder / f"{len(pixels)}.npy"
    np.save(file, pixels[:600, :600])
    sahi.ask(do="detect", photo=str(file), batch=1, forget=True)
    np.save(file, pixels)
    more = growth(sahi.process_id, lambda: sahi.ask(do="detect", photo=str(file), batch=1, forget=True))
    return more / pixels.nbytes


def main() -> None:
    """Measure, and write what was measured."""
    from benchmarks.e_tiles import Sahi, add_sahi

    words = parser(__doc__)
    add_sahi(words)
    options = words.parse_args()
    with ExitStack() as closing:
        folder = closing.enter_context(tempfile.TemporaryDirectory())
        sahi = closing.enter_context(Sahi(options.sahi)) if options.sahi else None
        write("f-memory", rows(Path(folder), sahi), options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measured"]:
        measured_process(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
