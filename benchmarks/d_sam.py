"""SAM's automatic masks beside stock's, same weights: `python -m benchmarks.d_sam`.

Both sides get a decoded photo and give COCO run lengths, on one core. Stock gets the `points_per_batch` at
which it is fastest. The small SAM runs whole, with fewer points where stock would take an hour (`--full`:
always 32 x 32; `--vit-b`: not at all). ViT-B-sized weights are random: it is measured by stage and composed,

    stock = image + 1024 decode + 3072 enlarge + passing stability + stable (box and run lengths)
    ours  = image + 1024 decode + painted paint + passing sketch + kept (mask and run lengths)

How many masks pass the filter of estimated quality, are stable and are kept, and of how many points masks
are painted, is what the small SAM gives on the same photo; the note has the ratio if all of them passed. The
masks after decoding are the small SAM's too, their logits enlarged to ViT-B's 256 x 256 cells.

With `--whole` ViT-B runs from beginning to end, once a size, which takes an hour: see `whole_vit.py`.

With `--memory` it tells what the memory's peak adds to a process that holds the model and the decoded photo.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, build_sam_vit_b
from segment_anything.modeling import Sam
from segment_anything.utils import amg
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

QUALITY = MaskQuality(0.88, 0.95)
"""Stock's defaults."""
POINTS = 32
PROMPT_BATCHES, BATCH = 4, 64
MEMORY = 16 * 2**30
"""More is refused: stock with too large a batch should fail alone, not with the rest of the machine."""
MASKS = 6


class Size(NamedTuple):
    """A photo, how it is looked at, and what is asked of us."""

    megapixels: int
    height: int
    width: int
    points_per_side: int
    """Of the short run."""
    batches: tuple[int, ...]
    """What stock may choose its `points_per_batch` from: with more, its masks need over 10 GB."""
    blocks: int
    target: float


SIZES = (
    Size(1, 866, 1155, 16, (4, 16, 64), 3, 2.5),
    Size(12, 3000, 4000, 6, (2, 8), 2, 5.0),
    Size(48, 6000, 8000, 4, (1, 4), 1, 20.0),
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


def ours(model: SamRunner, picture: Pixels, per_side: int) -> list[str]:
    """Our automatic mode, up to the run lengths."""
    height, width = picture.shape[:2]
    return [run_lengths(mask, width, height) for mask in search(model, picture, per_side).masks()]


def stock(network: Sam, picture: Pixels, per_side: int, batch: int) -> list[str]:
    """Stock's, likewise."""
    generator = SamAutomaticMaskGenerator(network, per_side, batch, output_mode="coco_rle")
    return [str(one["segmentation"]["counts"]) for one in generator.generate(picture)]


def timed(work: Callable[[], Any]) -> float:
    """Return how many seconds it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def fastest(network: Sam, picture: Pixels, batches: Sequence[int]) -> int:
    """Return the `points_per_batch` at which stock is fastest, for 16 points."""
    return min(batches, key=lambda batch: timed(partial(stock, network, picture, 4, batch)))


def parity(found: list[str], expected: list[str], size: tuple[int, int]) -> str:
    """Say how far two lists of run lengths agree."""

    def decoded(lengths: str) -> npt.NDArray[np.bool_]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return coco.decode({"size": list(size), "counts": lengths}).astype(np.bool_)

    same = sum(a == b for a, b in zip(found, expected, strict=False))
    close = 0
    for a, b in zip(found, expected, strict=False):
        close += a == b or _iou(decoded(a), decoded(b)) >= 0.99
    return f"{len(found)} masks and {len(expected)}; IoU ≥ 0.99: {close}; run lengths equal: {same}"


def _iou(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def same_twice(options: argparse.Namespace) -> Row:
    """Measure ours against itself, on the smallest photo."""
    picture, model = photo(SIZES[0]), runner(sam("shipped"))
    work = partial(ours, model, picture, SIZES[0].points_per_side)
    return control_row("d", controlled(lambda: timed(work), options.blocks or 3, busy=options.busy))


def small(size: Size, options: argparse.Namespace) -> Row:
    """Measure the small SAM at one size."""
    picture, network = photo(size), sam("shipped")
    per_side = POINTS if options.full else size.points_per_side
    batch, model = fastest(network, picture, size.batches), runner(network)
    last: dict[str, list[str]] = {}

    def side(name: str, work: Callable[[], list[str]]) -> float:
        start = time.perf_counter()
        last[name] = work()
        return time.perf_counter() - start

    measured = in_turns(
        {
            "ours": lambda: side("ours", lambda: ours(model, picture, per_side)),
            "stock": lambda: side("stock", lambda: stock(network, picture, per_side, batch)),
        },
        1 if options.full else options.blocks or size.blocks,
    )
    return Row(
        "d",
        f"small SAM at {size.megapixels} MP, {per_side} x {per_side} points: times as fast as stock",
        ratio(measured["stock"], measured["ours"]),
        Target(least=size.target),
        peers={"stock, s": median(measured["stock"]).value, "ours, s": median(measured["ours"]).value},
        note=f"stock's points_per_batch {batch}; {parity(last['ours'], last['stock'], picture.shape[:2])}",
    )


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


def stock_stages(network: Sam, picture: Pixels, logits: Tensor) -> dict[str, float]:
    """Return stock's seconds: an image, a point, a mask enlarged, its stability, its box and run lengths."""
    predictor = SamPredictor(network)
    stages = {"image": timed(lambda: predictor.set_image(picture))}
    points = torch.rand(BATCH * PROMPT_BATCHES, 1, 2) * 1024

    def decoded(some: Tensor, batch: int) -> None:
        for part in torch.split(some, batch):
            prompts, dense = network.prompt_encoder((part, torch.ones(len(part), 1)), None, None)
            network.mask_decoder(
                predictor.features, network.prompt_encoder.get_dense_pe(), prompts, dense, True
            )

    best = min((2, 4, 64), key=lambda batch: timed(lambda: decoded(points[:BATCH], batch)))
    stages["decode"] = timed(lambda: decoded(points, best)) / len(points)
    stages["batch"] = best
    enlarged: list[Tensor] = []

    def enlarge(mask: Tensor) -> None:
        enlarged.append(
            network.postprocess_masks(mask[None, None], predictor.input_size, picture.shape[:2])[0]
        )

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


def our_stages(network: Sam, picture: Pixels, logits: Tensor) -> dict[str, float]:
    """Return ours: an image, a point, a point painted, a mask's sketch, a mask and its run lengths."""
    side = network.image_encoder.img_size
    prompt_encoder = network.prompt_encoder
    decoder = Decoder(
        network.mask_decoder, prompt_encoder.get_dense_pe(), prompt_encoder.no_mask_embed.weight
    )
    started = time.perf_counter()
    seen = shown(picture, side)
    batch = normalised([seen.image], side, side, network.pixel_mean, network.pixel_std)
    look = decoder.look(encode(network.image_encoder, batch))
    stages = {"image": time.perf_counter() - started, "decode": 0.0, "paint": 0.0}

    points = torch.rand(BATCH * PROMPT_BATCHES, 1, 2) * side
    for part in torch.split(points, 4):
        started = time.perf_counter()
        prompts, _ = prompt_encoder((part, torch.ones(len(part), 1)), None, None)
        understood = decoder.understand(look, prompts)
        decoded = time.perf_counter()
        decoder.paint(understood, torch.arange(4).repeat_interleave(3), torch.arange(3).repeat(4))
        stages["decode"] += (decoded - started) / len(points)
        stages["paint"] += (time.perf_counter() - decoded) / len(points)

    height, width = picture.shape[:2]
    there = seen.image.shape[1:]
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


def composed(theirs: Mapping[str, float], mine: Mapping[str, float], of: Shares) -> tuple[float, float]:
    """Return the seconds of stock and of ours for a photo: the formula above."""
    stock_seconds = (
        theirs["image"]
        + 1024 * theirs["decode"]
        + 3072 * theirs["enlarge"]
        + of.passing * theirs["stability"]
        + of.stable * theirs["lengths"]
    )
    our_seconds = (
        mine["image"]
        + 1024 * mine["decode"]
        + of.painted * mine["paint"]
        + of.passing * mine["sketch"]
        + of.kept * mine["mask"]
    )
    return stock_seconds, our_seconds


def large(size: Size, network: Sam) -> Row:
    """Measure ViT-B by stage, and compose."""
    picture, trained = photo(size), sam("shipped")
    of = shares(runner(trained), picture)
    logits = realistic(trained, picture)
    mine, theirs = our_stages(network, picture, logits), stock_stages(network, picture, logits)
    seconds = composed(theirs, mine, of)
    worst = composed(theirs, mine, Shares(1024, 3072, 3072, of.kept))
    value = seconds[0] / seconds[1]
    stages = "; ".join(
        f"{name}: " + ", ".join(f"{stage} {1000 * took:.1f} ms" for stage, took in side.items())
        for name, side in (("stock", theirs), ("ours", mine))
    )
    return Row(
        "d",
        f"ViT-B at {size.megapixels} MP, 32 x 32 points: times as fast as stock (composed)",
        Figure(value, value, value),
        Target(least=size.target),
        peers={"stock, s": seconds[0], "ours, s": seconds[1]},
        note=f"{of}; if all masks passed {worst[0] / worst[1]:.1f}; {stages}",
    )


# ----------------------------------------------------------------------------------------------------- memory


def peak(size: Size, name: str) -> float:
    """Return how many bytes the peak adds to a process that has the model and the photo; in that process."""
    network, picture = sam("shipped"), photo(size)
    if name == "ours":
        model = runner(network)
        model.warm_up()
        work = partial(ours, model, picture, POINTS)
    else:
        work = partial(stock, network, picture, 2, size.batches[0])
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _memory("VmRSS")
    work()
    return _memory("VmHWM") - before


def _memory(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * float(next(line for line in lines if line.startswith(field)).split()[1])


def memory(size: Size) -> Row:
    """Measure the memory of both sides, each in a fresh process."""
    found = {}
    for name in ("ours", "stock"):
        command = [sys.executable, "-m", "benchmarks.d_sam"]
        command += ["--peak", name, "--megapixels", str(size.megapixels)]
        environment = os.environ | {"MALLOC_ARENA_MAX": "2"}
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment, timeout=LONGEST
        )
        found[name] = float(done.stdout) / 1e9
    added = found["ours"]
    return Row(
        "f",
        f"SAM automatic at {size.megapixels} MP: GB added to the decoded photo",
        Figure(added, added, added),
        Target(most=0.5),
        peers={"stock": found["stock"]},
        note=f"ours 32 x 32 points; stock 2 x 2 points, points_per_batch {size.batches[0]}",
    )


def main() -> None:
    """Measure what the arguments say."""
    words = parser(__doc__)
    words.add_argument("--full", action="store_true", help="the small SAM with 32 x 32 points at every size")
    words.add_argument("--vit-b", action="store_true", help="only ViT-B by stage")
    words.add_argument("--whole", action="store_true", help="only ViT-B whole: an hour")
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
        require_quiet(busy=options.busy)
        on_core(1)
        if options.memory:
            write("f-sam", [memory(size) for size in sizes], options)
            return
        if options.whole:
            from benchmarks.whole_vit import whole  # which uses this module

            found = []
            for size in sizes:
                found.append(whole(size))
                write("d-sam-vit-b-whole", found, options)  # what is measured is not lost
            return
        if not options.vit_b:
            first = [same_twice(options)] if SIZES[0] in sizes else []
            write("d-sam", [*first, *(small(size, options) for size in sizes)], options)
        network = large_model()
        write("d-sam-vit-b", [large(size, network) for size in sizes], options)


if __name__ == "__main__":
    main()
