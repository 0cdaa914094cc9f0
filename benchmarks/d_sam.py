"""SAM's automatic masks beside stock's, same weights: `python -m benchmarks.d_sam`.

Both sides get a decoded photo and give COCO run lengths, on one core. Stock gets the `points_per_batch` at
which it is fastest. The small SAM runs whole, with fewer points where stock would take an hour (`--full`:
always 32 x 32; `--vit-b`: not at all). ViT-B-sized weights are random: it is measured by stage and composed,

    stock = shrink + encode + 1024 decode + 3072 enlarge + passing stability + stable (box and run lengths)
    ours  = shrink + encode + 1024 decode + painted paint + passing sketch + kept (mask and run lengths)

`encode`, `decode` and `paint` are what the network does, which sees 1024 pixels of every photo: they are
measured once, of one photo and of 4 of the 16 batches of 64 points. The others are measured at each size,
on six masks. How many masks pass the filter of estimated quality, are stable and are kept, and of how many
points masks are painted, is what the small SAM gives on the same scene; the note has the ratio if all of them
passed. The masks after decoding are the small SAM's too, their logits enlarged to ViT-B's 256 x 256 cells.

Whether the masks are stock's is compared on every photo that both sides have seen whole, and on twenty small
ones, with laxer filters there, so that there are many masks: how many of both sides have a partner on the
other side, IoU 0.99 or more, and on how many photos there are as many masks.

With `--whole` ViT-B runs from beginning to end, once a size, in nearly two hours: see `whole_vit.py`.

With `--memory` it tells what the memory's peak adds to a process that holds the model and the decoded photo.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as coco
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, build_sam_vit_b
from segment_anything.modeling import Sam
from segment_anything.utils import amg
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn
from torch.nn import functional

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
from benchmarks.processes import LONGEST
from consumer.local.scenes import demo_photo
from consumer.models.pixels import normalised
from consumer.models.sam import SamRunner
from consumer.models.sam.blocks import sketch
from consumer.models.sam.decoder import Decoder
from consumer.models.sam.encoder import encode
from consumer.models.sam.pictures import shown
from consumer.models.sam.stretch import sam_stretch
from pipeline_steps.artifacts import Image, Pixels
from pipeline_steps.masks import run_lengths
from pipeline_steps.models import MaskQuality
from pipeline_steps.vision.automatic import Regions, Search, find
from tests.models.sams import CPU, OneModel, runner, sam
from tests.pipeline_steps.fakes import context

QUALITY, LAX = MaskQuality(0.88, 0.95), MaskQuality(0.6, 0.8)
"""Stock's defaults, and what lets many masks pass that are compared."""
SMALL_PHOTOS = 20
SAME_MASKS, SAME_COUNT = Target(least=0.99), Target(least=0.95)
POINTS = 32
PROMPT_BATCHES, BATCH = 4, 64
MEMORY = 16 * 2**30
"""More is refused: stock with too large a batch should fail alone, not with the rest of the machine."""
FIRST_BATCH = 64
"""Of the points by which stock's fastest batch is found; they count among the others."""
MASKS = 6


class Size(NamedTuple):
    """A photo, how it is looked at, and what is asked of us."""

    megapixels: int
    height: int
    width: int
    points_per_side: int
    """Of the short run."""
    batches: tuple[int, ...]
    """What stock may choose its `points_per_batch` from: with more, its masks need over 10 GB. At 48
    megapixels 1 is slower than 4, and to see that every time anew would take a minute."""
    blocks: int
    target: float


SIZES = (
    Size(1, 866, 1155, 16, (4, 16, 64), 2, 2.5),
    Size(12, 3000, 4000, 5, (2, 8), 2, 5.0),
    Size(48, 6000, 8000, 3, (4,), 1, 20.0),
)


def photo(size: Size) -> Pixels:
    """Return a generated scene of that size."""
    height = min(size.height, 1500)
    pixels = demo_photo(7, height, height * size.width // size.height).pixels
    if pixels.shape[:2] == (size.height, size.width):
        return pixels
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    large = functional.interpolate(tensor, (size.height, size.width), mode="bilinear")
    return np.ascontiguousarray(large[0].permute(1, 2, 0).numpy())


# --------------------------------------------------------------------------------------- the small SAM, whole


def search(
    model: SamRunner, picture: Pixels, per_side: int, quality: MaskQuality = QUALITY, overlap: float = 0.7
) -> Regions:
    """Our automatic mode, up to which masks there are."""
    ctx = context(OneModel(model))  # type: ignore[arg-type]
    return asyncio.run(find("sam", Image(picture), Search(quality, per_side, overlap), ctx))


def ours(model: SamRunner, picture: Pixels, per_side: int, quality: MaskQuality = QUALITY) -> list[str]:
    """Our automatic mode, up to the run lengths."""
    height, width = picture.shape[:2]
    return [run_lengths(mask, width, height) for mask in search(model, picture, per_side, quality).masks()]


def stock(
    network: Sam, picture: Pixels, per_side: int, batch: int, quality: MaskQuality = QUALITY
) -> list[str]:
    """Stock's, likewise."""
    generator = SamAutomaticMaskGenerator(
        network,
        per_side,
        batch,
        pred_iou_thresh=quality.predicted_iou,
        stability_score_thresh=quality.stability,
        output_mode="coco_rle",
    )
    return [str(one["segmentation"]["counts"]) for one in generator.generate(picture)]


def timed(work: Callable[[], Any]) -> float:
    """Return how many seconds it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def fastest(network: Sam, picture: Pixels, batches: Sequence[int]) -> int:
    """Return the `points_per_batch` at which stock is fastest, of points enough to fill the largest."""
    if len(batches) == 1:
        return batches[0]
    per_side = math.ceil(math.sqrt(max(batches)))
    return min(batches, key=lambda batch: timed(partial(stock, network, picture, per_side, batch)))


class Agreement(NamedTuple):
    """How far the masks of two sides agree."""

    masks: int
    """Of both sides together."""
    paired: int
    """Of those, with a partner on the other side: IoU 0.99 or more."""
    identical: int
    """Likewise: run lengths equal."""

    @classmethod
    def of(cls, found: list[str], expected: list[str], size: tuple[int, int]) -> Agreement:
        """Compare two lists of run lengths of a picture of that height and width."""
        same = np.array([[one == other for other in expected] for one in found], np.bool_)
        close = same.copy()
        if close.size:
            sides = [
                [{"size": list(size), "counts": one.encode()} for one in side] for side in (found, expected)
            ]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # numpy's, about how the two use it
                close |= np.asarray(coco.iou(*sides, [0] * len(expected))) >= 0.99
        paired, identical = (
            int(some.any(0).sum() + some.any(1).sum()) if some.size else 0 for some in (close, same)
        )
        return cls(len(found) + len(expected), paired, identical)

    def row(self, what: str, note: str = "") -> Row:
        """Return the row of that; where there is nothing to compare it has no target, and says so."""
        share = self.paired / max(1, self.masks)
        told = f"{self.masks} masks of both sides; run lengths equal: {self.identical}{note}"
        return Row(
            "d",
            f"{what}: share of masks that are the other side's too",
            Figure(share, share, share),
            SAME_MASKS if self.masks else None,
            note=told if self.masks else f"neither side found a mask: nothing to compare{note}",
        )


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


# -------------------------------------------------------------------------------------------- ViT-B, by stage


class Shares(NamedTuple):
    """How many of 1024 points and their 3072 masks get how far."""

    painted: int
    """Points with a mask that passes the filter of estimated quality."""
    passing: int
    stable: int
    kept: int


def shares(model: SamRunner, picture: Pixels) -> Shares:
    """Return them as the small SAM has them."""
    passing = search(model, picture, POINTS, MaskQuality(QUALITY.predicted_iou, 0, 1), 1.0)
    kept = search(model, picture, POINTS)
    points = len(np.unique(passing.point, axis=0))
    stable = int((passing.stability >= QUALITY.stability).sum())
    return Shares(points, len(passing), stable, len(kept))


def large_model() -> Sam:
    """Return a ViT-B with random weights."""
    torch.manual_seed(0)
    network = build_sam_vit_b().requires_grad_(False)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network


def realistic(network: Sam, picture: Pixels) -> Tensor:
    """Return the logits of some of the small SAM's masks, from small to large, (MASKS, 256, 256)."""
    predictor = SamPredictor(network)
    predictor.set_image(picture)
    points = torch.from_numpy(amg.build_point_grid(6) * predictor.input_size[::-1]).float()
    # Not by the predictor: it would enlarge all of them at once, 20 GB at 48 MP.
    prompts, dense = network.prompt_encoder((points[:, None], torch.ones(len(points), 1)), None, None)
    positions = network.prompt_encoder.get_dense_pe()
    logits = network.mask_decoder(predictor.features, positions, prompts, dense, True)[0].flatten(0, 1)
    by_area = (logits > 0).flatten(1).sum(1).argsort()
    chosen = by_area[torch.linspace(0.1, 0.95, MASKS).mul(len(by_area)).long()]
    return functional.interpolate(logits[chosen][None], (256, 256), mode="bicubic")[0]


Stages = Mapping[str, float]
"""Seconds by stage."""


def stock_network(network: Sam, picture: Pixels) -> Stages:
    """Return stock's seconds of the network: an encoded picture, a point; and its fastest batch of points."""
    predictor = SamPredictor(network)
    seen = torch.as_tensor(ResizeLongestSide(network.image_encoder.img_size).apply_image(picture))
    seen = seen.permute(2, 0, 1).contiguous()[None]
    stages = {"encode": timed(lambda: predictor.set_torch_image(seen, picture.shape[:2]))}
    points = torch.rand(BATCH * PROMPT_BATCHES, 1, 2) * 1024

    def decoded(some: Tensor, batch: int) -> None:
        for part in torch.split(some, batch):
            prompts, dense = network.prompt_encoder((part, torch.ones(len(part), 1)), None, None)
            network.mask_decoder(
                predictor.features, network.prompt_encoder.get_dense_pe(), prompts, dense, True
            )

    first = {batch: timed(partial(decoded, points[:FIRST_BATCH], batch)) for batch in (2, 4, 64)}
    best = min(first, key=first.__getitem__)
    stages["decode"] = (first[best] + timed(partial(decoded, points[FIRST_BATCH:], best))) / len(points)
    stages["batch"] = best
    return stages


def our_network(network: Sam, picture: Pixels) -> Stages:
    """Return ours: an encoded picture, a point, a point painted."""
    side = network.image_encoder.img_size
    prompt_encoder = network.prompt_encoder
    decoder = Decoder(
        network.mask_decoder, prompt_encoder.get_dense_pe(), prompt_encoder.no_mask_embed.weight
    )
    seen = shown(picture, side)
    started = time.perf_counter()
    batch = normalised([seen.image], side, side, network.pixel_mean, network.pixel_std)
    look = decoder.look(encode(network.image_encoder, batch))
    stages = {"encode": time.perf_counter() - started, "decode": 0.0, "paint": 0.0}
    points = torch.rand(BATCH * PROMPT_BATCHES, 1, 2) * side
    for part in torch.split(points, 4):
        started = time.perf_counter()
        prompts, _ = prompt_encoder((part, torch.ones(len(part), 1)), None, None)
        understood = decoder.understand(look, prompts)
        decoded = time.perf_counter()
        decoder.paint(understood, torch.arange(4).repeat_interleave(3), torch.arange(3).repeat(4))
        stages["decode"] += (decoded - started) / len(points)
        stages["paint"] += (time.perf_counter() - decoded) / len(points)
    return stages


def stock_around(network: Sam, picture: Pixels, logits: Tensor) -> Stages:
    """Return stock's seconds at a size: the photo shrunk, a mask enlarged, its stability, its run lengths."""
    transform = ResizeLongestSide(network.image_encoder.img_size)
    stages = {"shrink": timed(lambda: transform.apply_image(picture))}
    there = transform.get_preprocess_shape(*picture.shape[:2], network.image_encoder.img_size)
    enlarged: list[Tensor] = []

    def enlarge(mask: Tensor) -> None:
        enlarged.append(network.postprocess_masks(mask[None, None], there, picture.shape[:2])[0])

    def lengths(mask: Tensor) -> None:
        bits = mask > 0
        amg.batched_mask_to_box(bits)
        amg.coco_encode_rle(amg.mask_to_rle_pytorch(bits)[0])

    for name, stage, masks in (
        ("enlarge", enlarge, logits),
        ("stability", lambda mask: amg.calculate_stability_score(mask, 0.0, 1.0), enlarged),
        ("lengths", lengths, enlarged),
    ):
        stages[name] = float(np.mean([timed(partial(stage, mask)) for mask in masks]))
    return stages


def our_around(network: Sam, picture: Pixels, logits: Tensor) -> Stages:
    """Return ours: the photo shrunk, a mask's sketch, a mask and its run lengths."""
    side, (height, width) = network.image_encoder.img_size, picture.shape[:2]
    started = time.perf_counter()
    there = shown(picture, side).image.shape[1:]
    stages = {"shrink": time.perf_counter() - started}
    rows, columns = (
        sam_stretch(256, side, *lengths, CPU) for lengths in zip(there, (height, width), strict=True)
    )
    started = time.perf_counter()
    masks = sketch(logits, rows, columns, 0.0, 1.0).sketches
    sketched = time.perf_counter()
    for mask in masks:
        run_lengths(mask.drawn(), width, height)
    stages["sketch"] = (sketched - started) / len(masks)
    stages["mask"] = (time.perf_counter() - sketched) / len(masks)
    return stages


def composed(theirs: Stages, mine: Stages, of: Shares) -> tuple[float, float]:
    """Return the seconds of stock and of ours for a photo: the formula above."""
    stock_seconds = (
        theirs["shrink"]
        + theirs["encode"]
        + 1024 * theirs["decode"]
        + 3072 * theirs["enlarge"]
        + of.passing * theirs["stability"]
        + of.stable * theirs["lengths"]
    )
    our_seconds = (
        mine["shrink"]
        + mine["encode"]
        + 1024 * mine["decode"]
        + of.painted * mine["paint"]
        + of.passing * mine["sketch"]
        + of.kept * mine["mask"]
    )
    return stock_seconds, our_seconds


def large(sizes: Sequence[Size]) -> list[Row]:
    """Measure ViT-B by stage, and compose."""
    network, trained, scene = large_model(), sam("shipped"), photo(SIZES[0])
    of, logits = shares(runner(trained), scene), realistic(trained, scene)
    mine, theirs = our_network(network, scene), stock_network(network, scene)
    rows = []
    for size in sizes:
        picture = photo(size)
        my_own = {**mine, **our_around(network, picture, logits)}
        their_own = {**theirs, **stock_around(network, picture, logits)}
        seconds = composed(their_own, my_own, of)
        worst = composed(their_own, my_own, Shares(1024, 3072, 3072, of.kept))
        value = seconds[0] / seconds[1]
        stages = "; ".join(
            f"{name}: " + ", ".join(_told(stage, took) for stage, took in side.items())
            for name, side in (("stock", their_own), ("ours", my_own))
        )
        rows.append(
            Row(
                "d",
                f"ViT-B at {size.megapixels} MP, 32 x 32 points: times as fast as stock (composed)",
                Figure(value, value, value),
                Target(least=size.target),
                peers={"stock, s": seconds[0], "ours, s": seconds[1]},
                note=f"{of}; if all masks passed {worst[0] / worst[1]:.1f}; {stages}",
            )
        )
    return rows


def _told(stage: str, took: float) -> str:
    return f"points_per_batch {took:g}" if stage == "batch" else f"{stage} {1000 * took:.1f} ms"


# ----------------------------------------------------------------------------------------------------- memory


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
    command = [sys.executable, "-m", "benchmarks.d_sam"]
    command += ["--peak", name, "--megapixels", str(size.megapixels)]
    environment = os.environ | {"MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, timeout=LONGEST
    )
    return float(done.stdout) / 1e9


def memory(size: Size) -> Row:
    """Measure the memory of both sides, beside each other: it is no matter of time."""
    with ThreadPoolExecutor(2) as threads:
        added, stocks = threads.map(partial(peak_of_a_process, size), ("ours", "stock"))
    return Row(
        "f",
        f"SAM automatic at {size.megapixels} MP: GB added to the decoded photo",
        Figure(added, added, added),
        Target(most=0.5),
        peers={"stock": stocks},
        note=f"ours {POINTS} x {POINTS} points; stock 2 x 2 points, points_per_batch 1",
    )


def main() -> None:
    """Measure what the arguments say."""
    words = parser(__doc__)
    words.add_argument("--full", action="store_true", help="the small SAM with 32 x 32 points at every size")
    words.add_argument("--vit-b", action="store_true", help="only ViT-B by stage")
    words.add_argument("--whole", action="store_true", help="only ViT-B whole: nearly two hours")
    words.add_argument("--memory", action="store_true", help="only the memory")
    words.add_argument(
        "--megapixels", type=int, choices=[size.megapixels for size in SIZES], help="only this size"
    )
    words.add_argument("--peak", choices=("ours", "stock"), help=argparse.SUPPRESS)
    options = words.parse_args()
    sizes = [size for size in SIZES if options.megapixels in (None, size.megapixels)]
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's, about how stock uses it
        if options.peak:
            print(peak(sizes[0], options.peak))
            return
        if options.memory:
            write("f-sam", [memory(size) for size in sizes], options)
            return
        require_quiet(busy=options.busy)
        on_core(1)
        if options.whole:
            from benchmarks.whole_vit import whole  # which uses this module

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
