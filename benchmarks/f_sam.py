"""What SAM's automatic masks add, at their peak, to the memory of a process with the model and the photo.

`python -m benchmarks.f_sam`; each side in a process of its own, beside each other: it is no matter of time.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from benchmarks.method import Figure, Row, Target, parser, write
from benchmarks.processes import LONGEST
from benchmarks.sam_sides import MEMORY, POINTS, SIZES, Size, ours, photo, stock
from tests.models.sams import runner, sam


def peak(size: Size, name: str) -> float:
    """Return how many bytes the peak adds to a process that has the model and the photo; in that process."""
    network, picture = sam("shipped"), photo(size)
    if name == "ours":
        model = runner(network)
        model.warm_up()
        work = partial(ours, model, picture, POINTS)
    else:
        work = partial(stock, network, picture, 2, 1)  # the least it can do with
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _memory("VmRSS")
    work()
    return _memory("VmHWM") - before


def _memory(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line for line in lines if line.startswith(field)).split()[1])


def peak_of_a_process(size: Size, name: str) -> float:
    """Return what `peak` returns in a fresh process, in GB."""
    command = [sys.executable, "-m", "benchmarks.f_sam"]
    command += ["--peak", name, "--megapixels", str(size.megapixels)]
    environment = os.environ | {"MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, timeout=LONGEST
    )
    return float(done.stdout) / 1e9


def rows() -> Iterator[Row]:
    """Measure the memory of both sides at all sizes, two at a time: it is no matter of time."""
    with ThreadPoolExecutor(2) as threads:
        added = {
            (size, side): threads.submit(peak_of_a_process, size, side)
            for side in ("ours", "stock")  # ours have more points, and take longer
            for size in reversed(SIZES)
        }
    for size in SIZES:
        ours_added = added[size, "ours"].result()
        yield Row(
            "f",
            f"SAM automatic at {size.megapixels} MP: GB added to the decoded photo",
            Figure(ours_added, ours_added, ours_added),
            Target(most=0.5),
            peers={"stock": added[size, "stock"].result()},
            note=f"ours {POINTS} x {POINTS} points; stock 2 x 2 points, points_per_batch 1",
        )


def main() -> None:
    """Measure what the arguments say."""
    words = parser(__doc__)
    words.add_argument("--megapixels", type=int, help=argparse.SUPPRESS)
    words.add_argument("--peak", choices=("ours", "stock"), help=argparse.SUPPRESS)
    options = words.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's, about how stock uses it
        if options.peak:
            print(peak(next(size for size in SIZES if size.megapixels == options.megapixels), options.peak))
        else:
            write("f-sam", list(rows()), options)


if __name__ == "__main__":
    main()
