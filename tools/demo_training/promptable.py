"""Training and measuring the small SAM: masks of containers and of plants, from boxes and from points."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from demo_training.encoder import embed, prepare
from demo_training.loop import load_part, train
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from consumer.local.scenes import demo_photo, scene
from consumer.models.architectures import sam_small
from consumer.models.sam.decoder import Decoder

SIDE = 256
PROMPTS = 6
BATCH = 5  # pictures: with six prompts each, more steps teach more than larger ones
# Plants, containers; pixels of 256 x 256: what is smaller is no shape at the masks' resolution.
LEAST_AREAS = (144, 400)


@dataclass(frozen=True, slots=True)
class Example:
    """A picture of SAM's own size and maps of its plants and containers, 0 where there is none."""

    pixels: NDArray[np.uint8]
    maps: NDArray[np.uint16]


def example(seed: int) -> Example:
    """A square training picture: a wild scene, or a demo photo, whole or cut to one of its containers."""
    lot = seed % 5
    if lot < 3:
        shape = ((SIDE, SIDE), (SIDE * 3 // 4, SIDE), (SIDE, SIDE * 3 // 4))[lot]
        pitch = float(np.exp(np.random.default_rng((seed, 4)).uniform(np.log(45), np.log(160))))
        view = scene(seed, *shape, pitch=pitch)
        return _shrunk(view.pixels, view.plant_masks, view.container_masks)
    photo = demo_photo(seed, 480, 640)
    if lot == 4 and len(photo.containers):
        left, top, right, bottom = (int(v) for v in photo.containers[seed % len(photo.containers)])
        part = np.s_[max(0, top - 12) : bottom + 12, max(0, left - 12) : right + 12]
        return _shrunk(photo.pixels[part], photo.plant_masks[part], photo.container_masks[part])
    return _shrunk(photo.pixels, photo.plant_masks, photo.container_masks)


def _shrunk(pixels: NDArray[np.uint8], plants: NDArray[np.int32], containers: NDArray[np.int32]) -> Example:
    """Longer side to `SIDE`, the rest left empty, as `Sam.preprocess` does it."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    full = Example(np.zeros((SIDE, SIDE, 3), dtype=np.uint8), np.zeros((2, SIDE, SIDE), dtype=np.uint16))
    full.pixels[: size[1], : size[0]] = np.asarray(
        Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    )
    for index, found in enumerate((plants, containers)):
        small = Image.fromarray(found.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
        full.maps[index, : size[1], : size[0]] = np.asarray(small)
    return full


def make_examples(count: int, seed: int, workers: int = 2) -> list[Example]:
    """Draw examples with all workers."""
    with multiprocessing.get_context("fork").Pool(workers) as processes:
        return list(processes.imap(example, range(seed, seed + count), chunksize=20))


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts for one picture, with the masks they ask for.

    Attributes:
        masks: bool (n, SIDE, SIDE).
        boxes: float32 (n, 4).
        points: float32 (n, k, 2).
        kinds: int64 (n, k); 1 in the object, 0 beside it, -1 none.
    """

    masks: NDArray[np.bool_]
    boxes: NDArray[np.float32]
    points: NDArray[np.float32]
    kinds: NDArray[np.int64]


def prompts(
    rng: np.random.Generator,
    maps: NDArray[np.uint16],
    count: int,
    layers: tuple[int, ...] = (0, 1),
    loose: float = 0.08,
) -> Prompts | None:
    """Choose objects and prompt for each with a loose box and with points.

    A point for a container lies where no plant is: there it would mean the plant.

    Args:
        rng: Source of randomness.
        maps: Of one picture: plants and containers.
        count: Number of prompts; an object may be asked for more than once.
        layers: 0 for plants, 1 for containers; from each equally many if it has any.
        loose: Greatest displacement of a box's side, as a part of its length.

    Returns:
        The prompts, or none if the picture has nothing large enough.
    """
    objects = []
    for layer in layers:
        areas = np.bincount(maps[layer].ravel())
        large = [(layer, int(key)) for key in np.flatnonzero(areas >= LEAST_AREAS[layer]) if key]
        if large:
            objects.append(large)
    if not objects:
        return None
    chosen = []
    for _ in range(count):
        among = objects[int(rng.integers(len(objects)))]
        chosen.append(among[int(rng.integers(len(among)))])
    masks, boxes, points, kinds = [], [], [], []
    for layer, key in chosen:
        mask = maps[layer] == key
        ys, xs = np.nonzero(mask)
        box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=np.float32)
        spread = np.array([box[2] - box[0], box[3] - box[1]] * 2)
        inside = mask & (maps[0] == 0) if layer == 1 else mask
        ys, xs = np.nonzero(inside) if inside.any() else (ys, xs)
        pick = rng.integers(len(xs), size=2)
        outside = rng.uniform(0, SIDE, 2)
        beside = not mask[int(outside[1]), int(outside[0])]
        masks.append(mask)
        boxes.append(box + rng.normal(0, loose / 2, 4).clip(-loose, loose) * spread)
        points.append([(xs[pick[0]], ys[pick[0]]), (xs[pick[1]], ys[pick[1]]), tuple(outside)])
        kinds.append((1, 1, 0 if beside else -1))
    return Prompts(
        np.stack(masks),
        np.array(boxes, dtype=np.float32),
        np.array(points, dtype=np.float32) + 0.5,
        np.array(kinds),
    )


def decoder_of(network: nn.Module) -> Decoder:
    """Return the worker's own decoder over the network's present weights: faster than stock's."""
    prompts = network.prompt_encoder
    with torch.autocast("cpu", enabled=False):  # positions need their last bits
        positions = prompts.get_dense_pe()
    return Decoder(network.mask_decoder, positions, prompts.no_mask_embed.weight, single=True)


def predict(
    network: nn.Module, decoder: Decoder, embedding: Tensor, asked: Prompts, how: str
) -> tuple[Tensor, Tensor]:
    """All four masks for each prompt: (n, 4, SIDE / 2, SIDE / 2) logits and (n, 4) estimated IoU.

    Args:
        network: A SAM.
        decoder: Its decoder.
        embedding: (c, h, w) of the picture.
        asked: What is prompted for.
        how: `box`, `point`, `points` (two in the object and one beside it) or `both`.
    """
    points = None
    if how != "box":
        used = 3 if how == "points" else 1
        points = (torch.from_numpy(asked.points[:, :used]), torch.from_numpy(asked.kinds[:, :used]))
    boxes = torch.from_numpy(asked.boxes) if how in ("box", "both") else None
    with torch.autocast("cpu", enabled=False):  # positions need their last bits
        sparse, _ = network.prompt_encoder(points=points, boxes=boxes, masks=None)
    understood = decoder.understand(decoder.look(embedding), sparse)
    count, kinds = understood.scores.shape
    prompt, mask = torch.arange(count).repeat_interleave(kinds), torch.arange(kinds).repeat(count)
    logits = decoder.paint(understood, prompt, mask)
    return logits.unflatten(0, (count, kinds)), understood.scores


def mask_loss(logits: Tensor, quality: Tensor, truth: Tensor, ambiguous: bool) -> Tensor:
    """Cross entropy and dice; of three masks only the best learns, so that they can disagree.

    The single mask (index 0) is what a clear prompt asks for; a lone point is ambiguous and hardly teaches
    it.
    """
    wanted = functional.interpolate(truth[:, None], logits.shape[-2:], mode="area").expand_as(logits)
    chance = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    # A small object is few pixels of many: it weighs as much as a large one.
    share = wanted.mean((2, 3)).clamp(min=0.002)
    entropy = (entropy.mean((2, 3)) / share.sqrt()).clamp(max=20)
    dice = 1 - (2 * (chance * wanted).sum((2, 3)) + 1) / (chance.sum((2, 3)) + wanted.sum((2, 3)) + 1)
    each = entropy + dice
    with torch.no_grad():
        hit = (logits > 0) & (wanted > 0.5)
        overlap = hit.sum((2, 3)) / ((logits > 0) | (wanted > 0.5)).sum((2, 3)).clamp(min=1)
    single = each[:, 0].mean() * (0.3 if ambiguous else 1.0)
    best = each[:, 1:].min(dim=1).values.mean() + 0.05 * each[:, 1:].mean()
    # A user gets the mask that is rated best: it learns too, else the estimate would have to be perfect.
    rated = 0.5 * each[:, 1:].gather(1, quality[:, 1:].argmax(1, keepdim=True)).mean()
    return single + best + rated + 4 * functional.mse_loss(quality, overlap.float())


def batches(examples: list[Example], size: int, seed: int) -> Iterator[tuple[Tensor, list[Prompts]]]:
    """Endless batches of pictures, normalised as SAM does, with their prompts."""
    rng = np.random.default_rng(seed)
    while True:
        pictures, asked = [], []
        while len(asked) < size:
            chosen = examples[int(rng.integers(len(examples)))]
            pixels, maps = chosen.pixels, chosen.maps
            if rng.random() < 0.5:
                pixels, maps = pixels.transpose(1, 0, 2), maps.transpose(0, 2, 1)
            found = prompts(rng, maps, PROMPTS)
            if found is None:
                continue
            light = np.exp(rng.normal(0, 0.08, 3)) * np.exp(rng.normal(0, 0.12))
            pictures.append(
                torch.from_numpy((pixels * light).clip(0, 255).astype(np.float32)).permute(2, 0, 1)
            )
            asked.append(found)
        yield torch.stack(pictures), asked


def normalised(network: nn.Module, pictures: Tensor) -> Tensor:
    """As `Sam.preprocess`; what was padding stays near zero there and is near zero here too."""
    empty = (pictures == 0).all(dim=1, keepdim=True)
    return ((pictures - network.pixel_mean) / network.pixel_std).masked_fill(empty, 0.0)


@torch.no_grad()
def _look_where_prompted(network: nn.Module) -> None:
    """Let attention between picture and prompts begin as nearness instead of learning it from noise.

    With the same projection for queries and keys, a place attends most to the prompt whose position is most
    like its own. Otherwise thousands of steps pass before small objects get a mask at all.
    """
    for name, part in network.mask_decoder.transformer.named_modules():
        if name.endswith(
            ("cross_attn_token_to_image", "cross_attn_image_to_token", "final_attn_token_to_image")
        ):
            part.q_proj.weight.mul_(2)
            part.k_proj.weight.copy_(part.q_proj.weight)


def train_sam(
    examples: list[Example],
    seconds: float,
    seed: int,
    trunk: Path | None,
    checkpoint: Path | None,
    start: Path | None = None,
    rate: float = 1e-3,
) -> nn.Module:
    """Train the small SAM, from `start` if given, else its convolutional trunk from the plant detector's."""
    torch.manual_seed(seed)
    network = sam_small()
    _look_where_prompted(network)
    prepare(network.image_encoder)
    if start:
        load_part(network, start)
    elif trunk:
        load_part(network.image_encoder.patch_embed.pyramid, trunk, "backbone.")
    stream = batches(examples, BATCH, seed)
    rng = np.random.default_rng(seed)

    def loss(current: nn.Module) -> Tensor:
        pictures, asked = next(stream)
        answers = []
        embeddings = embed(current.image_encoder, normalised(current, pictures))
        with torch.autocast("cpu", torch.bfloat16):
            decoder = decoder_of(current)
            for index, one in enumerate(asked):
                how = str(rng.choice(("box", "point", "points", "both"), p=(0.4, 0.45, 0.1, 0.05)))
                answers.append((one, how, *predict(current, decoder, embeddings[index], one, how)))
        losses = [
            mask_loss(masks.float(), quality.float(), torch.from_numpy(one.masks).float(), how == "point")
            for one, how, masks, quality in answers
        ]
        return torch.stack(losses).mean()

    return train("sam", network, loss, seconds, rate, checkpoint)


@torch.inference_mode()
def measure_sam(network: nn.Module, examples: list[Example], seed: int) -> dict[str, float]:
    """Mean IoU on unseen pictures, as a user gets it: the mask at full size, chosen by SAM's own estimate.

    Returns:
        `box_iou` (single mask of a box), `point_iou` (best-rated of three for one point), the same for plants
        and for containers alone, and `point_best_iou` (the best of the three, whatever SAM thought).
    """
    rng = np.random.default_rng(seed)
    decoder = decoder_of(network)
    found: dict[str, list[float]] = {}
    for one in examples:
        for layer, name in ((0, "plant"), (1, "container")):
            asked = prompts(rng, one.maps, PROMPTS, layers=(layer,), loose=0.04)
            if asked is None:
                continue
            picture = torch.from_numpy(one.pixels.astype(np.float32)).permute(2, 0, 1)[None]
            (embedding,) = network.image_encoder(normalised(network, picture))
            for how in ("box", "point"):
                logits, quality = predict(network, decoder, embedding, asked, how)
                full = functional.interpolate(logits, (SIDE, SIDE), mode="bilinear") > 0
                truth = torch.from_numpy(asked.masks)[:, None]
                overlap = (full & truth).sum((2, 3)) / (full | truth).sum((2, 3))
                rated = overlap[:, 1:].gather(1, quality[:, 1:].argmax(1, keepdim=True))[:, 0]
                mine = overlap[:, 0] if how == "box" else rated
                found.setdefault(f"{how}_iou", []).extend(mine.tolist())
                found.setdefault(f"{name}_{how}_iou", []).extend(mine.tolist())
                if how == "point":
                    found.setdefault("point_best_iou", []).extend(overlap[:, 1:].max(1).values.tolist())
    return {key: float(np.mean(values)) for key, values in sorted(found.items())}
