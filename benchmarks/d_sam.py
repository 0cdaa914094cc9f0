"""SAM's automatic masks beside stock's, same weights: `python -m benchmarks.d_sam`.

Both sides get a decoded photo and give COCO run lengths, on one core. Stock gets the `points_per_batch` at
which it is fastest. The small SAM runs whole, with fewer points where stock would take an hour (`--full`:
always 32 x 32; `--vit-b`: not at all). ViT-B-sized weights are random: it is measured by stage and composed,

    stock = shrink + encode + 1024 decode + 3072 enlarge + passing stability + stable (box and run lengths)
    ours  = shrink + encode + 1024 decode + painted paint + passing sketch + kept (mask and run lengths)

`encode`, `decode` and `paint` are what the network does, which sees 1024 pixels of every photo: they are
measured once, of one photo and of 4 of the 16 batches of 64 points. The others are measured at each size,
on six masks; see `sam_stages.py`.

Whether the masks are stock's is compared on every photo that both sides have seen whole, and on twenty small
ones, with laxer filters there, so that there are many masks: how many of both sides have a partner on the
other side, IoU 0.99 or more, and on how many photos there are as many masks.

With `--whole` ViT-B runs from beginning to end, once a size, in nearly two hours: see `whole_vit.py`. Its
weights are random, and where its decoder has answered, the small SAM's answers take the place of its own.
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.method import (
    Figure,
    Row,
    Target,
    control_row,
    controlled,
    in_turns,
    median,
    on_core,
    parser,
    ratio,
    require_quiet,
    write,
)
from benchmarks.sam_sides import (
    MEMORY,
    POINTS,
    SIZES,
    Agreement,
    Size,
    fastest,
    ours,
    photo,
    stock,
    timed,
)
from benchmarks.sam_stages import large
from benchmarks.whole_vit import whole
from consumer.local.scenes import demo_photo
from pipeline_steps.models import MaskQuality
from tests.models.sams import runner, sam

LAX = MaskQuality(0.6, 0.8)
"""Lets many masks pass that are compared."""
SMALL_PHOTOS = 20
SAME_COUNT = Target(least=0.95)


def alike(options: argparse.Namespace) -> list[Row]:
    """Compare the masks of small photos of several shapes."""
    network = sam("shipped")
    model = runner(network)
    every, as_many = Agreement(0, 0, 0), 0
    count = min(SMALL_PHOTOS, options.blocks or SMALL_PHOTOS)
    for number in range(count):
        whole = demo_photo(100 + number, 300, 400).pixels
        picture = np.ascontiguousarray((whole, whole[:, :225], whole[:120], whole[50:, 60:])[number % 4])
        found, expected = ours(model, picture, 8, LAX), stock(network, picture, 8, 16, LAX)
        one = Agreement.of(found, expected, picture.shape[:2])
        every = Agreement(*(a + b for a, b in zip(every, one, strict=True)))
        as_many += len(found) == len(expected)
    share = as_many / count
    return [
        every.row(f"small SAM, {count} photos of 0.1 MP, 8 x 8 points", f"; filters {LAX}"),
        Row(
            "d",
            f"small SAM, {count} photos of 0.1 MP: share of photos with as many masks as stock's",
            Figure(share, share, share),
            SAME_COUNT if every.masks else None,
        ),
    ]


def same_twice(options: argparse.Namespace) -> Row:
    """Measure ours against itself, on the smallest photo."""
    picture, model = photo(SIZES[0]), runner(sam("shipped"))
    work = partial(ours, model, picture, SIZES[0].points_per_side)
    return control_row("d", controlled(lambda: timed(work), options.blocks or 3, busy=options.busy))


def small(size: Size, options: argparse.Namespace) -> list[Row]:
    """Measure the small SAM at one size, and compare the masks."""
    picture, network = photo(size), sam("shipped")
    per_side = POINTS if options.full else size.points_per_side
    batch, model = fastest(network, picture, size.batches), runner(network)
    last: dict[str, list[str]] = {}

    def side(name: str, work: Callable[[], list[str]]) -> float:
        start = time.perf_counter()
        last[name] = work()
        return time.perf_counter() - start

    ours(model, picture, 1)  # to warm up: a whole round of stock's would take minutes
    stock(network, picture, 1, batch)
    measured = in_turns(
        {
            "ours": lambda: side("ours", lambda: ours(model, picture, per_side)),
            "stock": lambda: side("stock", lambda: stock(network, picture, per_side, batch)),
        },
        1 if options.full else options.blocks or size.blocks,
        warm=True,
    )
    what = f"small SAM at {size.megapixels} MP, {per_side} x {per_side} points"
    return [
        Row(
            "d",
            f"{what}: times as fast as stock",
            ratio(measured["stock"], measured["ours"]),
            Target(least=size.target),
            peers={"stock, s": median(measured["stock"]).value, "ours, s": median(measured["ours"]).value},
            note=f"stock's points_per_batch {batch}",
        ),
        Agreement.of(last["ours"], last["stock"], picture.shape[:2]).row(what),
    ]


def main() -> None:
    """Measure what the arguments say."""
    words = parser(__doc__)
    words.add_argument("--full", action="store_true", help="the small SAM with 32 x 32 points at every size")
    words.add_argument("--vit-b", action="store_true", help="only ViT-B by stage")
    words.add_argument("--whole", action="store_true", help="only ViT-B whole: nearly two hours")
    words.add_argument(
        "--megapixels", type=int, choices=[size.megapixels for size in SIZES], help="only this size"
    )
    options = words.parse_args()
    sizes = [size for size in SIZES if options.megapixels in (None, size.megapixels)]
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's, about how stock uses it
        require_quiet(busy=options.busy)
        on_core(1)
        if options.whole:
            found = []
            for size in sizes:
                found += whole(size)
                write("d-sam-vit-b-whole", found, options)  # what is measured is not lost
            return
        if not options.vit_b:
            first = [same_twice(options), *alike(options)] if SIZES[0] in sizes else []
            write("d-sam", [*first, *(row for size in sizes for row in small(size, options))], options)
        write("d-sam-vit-b", large(sizes), options)


if __name__ == "__main__":
    main()
