"""ViT-B by stage, composed to what a whole photo takes: see `d_sam.py`, which starts it.

There is no trained one here, and random weights give noise. So how many masks pass the filter of estimated
quality, are stable and are kept, and of how many points masks are painted, is what the small SAM gives on the
same scene; the note has the ratio if all of them passed. The masks after decoding are the small SAM's too,
their logits enlarged to ViT-B's 256 x 256 cells.

What both sides' networks themselves say of some points of a photo, noise as it is, is compared too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from segment_anything import SamPredictor, build_sam_vit_b
from segment_anything.modeling import Sam
from segment_anything.utils import amg
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.method import Figure, Row, Target
from benchmarks.sam_sides import POINTS, QUALITY, SAME_MASKS, SIZES, Size, photo, search, timed
from consumer.models.pixels import normalised
from consumer.models.sam import SamRunner
from consumer.models.sam.blocks import sketch
from consumer.models.sam.decoder import Decoder, Look
from consumer.models.sam.encoder import encode
from consumer.models.sam.pictures import shown
from consumer.models.sam.stretch import sam_stretch
from pipeline_steps.artifacts import Pixels
from pipeline_steps.masks import run_lengths
from pipeline_steps.models import MaskQuality
from tests.models.sams import CPU, runner, sam

PROMPT_BATCHES, BATCH = 4, 64
FIRST_BATCH = 64
"""Of the points by which stock's fastest batch is found; they count among the others."""
MASKS = 6
COMPARED = 16
"""Points of which both networks' own masks are compared, three each."""


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


def stock_network(network: Sam, picture: Pixels) -> tuple[Stages, Tensor]:
    """Return stock's seconds: an encoded picture, a point; its fastest batch; and the embedding."""
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
    return stages, predictor.features


def our_decoder(network: Sam) -> Decoder:
    """Return our decoder with the network's weights."""
    prompts = network.prompt_encoder
    return Decoder(network.mask_decoder, prompts.get_dense_pe(), prompts.no_mask_embed.weight)


def our_network(network: Sam, picture: Pixels) -> tuple[Stages, Look]:
    """Return ours: an encoded picture, a point, a point painted; and what the decoder sees of the picture."""
    side = network.image_encoder.img_size
    prompt_encoder = network.prompt_encoder
    decoder = our_decoder(network)
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
    return stages, look


def networks_agree(network: Sam, features: Tensor, look: Look) -> Row:
    """Compare what both networks say of the same points: masks before they are enlarged, and quality."""
    points = torch.rand(COMPARED, 1, 2) * network.image_encoder.img_size
    prompts, dense = network.prompt_encoder((points, torch.ones(COMPARED, 1)), None, None)
    positions = network.prompt_encoder.get_dense_pe()
    theirs, quality = network.mask_decoder(features, positions, prompts, dense, True)
    decoder = our_decoder(network)
    understood = decoder.understand(look, prompts)
    mine = decoder.paint(
        understood, torch.arange(COMPARED).repeat_interleave(3), torch.arange(3).repeat(COMPARED)
    )
    theirs = theirs.flatten(0, 1)
    both = ((mine > 0) & (theirs > 0)).flatten(1).sum(1)
    either = ((mine > 0) | (theirs > 0)).flatten(1).sum(1)
    share = float((both >= 0.99 * either).double().mean())
    return Row(
        "d",
        f"ViT-B's own masks of {COMPARED} points, before they are enlarged: share that are stock's",
        Figure(share, share, share),
        SAME_MASKS,
        note=f"{len(mine)} masks of random weights; logits differ by at most "
        f"{float((mine - theirs).abs().max()):.1e}, their standard deviation is {float(theirs.std()):.1e}; "
        f"qualities differ by at most {float((understood.scores - quality).abs().max()):.1e}",
    )


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
    (mine, look), (theirs, features) = our_network(network, scene), stock_network(network, scene)
    rows = [networks_agree(network, features, look)]
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
