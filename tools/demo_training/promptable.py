"""Training and measuring the small SAM: masks of containers and of plants, from boxes and from points."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from consumer.models.architectures import sam_small
from tools.demo_training.batches import NEAR, WHOLE, Batch, batches
from tools.demo_training.decoding import TrainingDecoder
from tools.demo_training.encoder import embed, prepare
from tools.demo_training.examples import SIDE, Example
from tools.demo_training.extents import PLACE, Extents
from tools.demo_training.loop import load_part, train
from tools.demo_training.prompts import encoded, prompts

NEARBY = (0.8, 0.2)
"""The part of all steps that look at parts of pictures, at first and at last: outlines first, then scale."""
EVERYWHERE = 2.0
"""What `Extents` weighs at first; at last, nothing: then only prompts matter."""
PROMPTS = 6
"""For each unseen picture."""


def mask_loss(logits: Tensor, quality: Tensor, truth: Tensor, clear: Tensor) -> Tensor:
    """Cross entropy and dice; of three masks only the best learns, so that they can disagree.

    Args:
        logits: (n, 4, cells, cells); index 0 is the single mask, which is what a clear prompt asks for.
        quality: (n, 4), the IoU that the network expects.
        truth: float (n, side, side), 1 in the object.
        clear: (n,): how much each prompt teaches the single mask; a lone point is ambiguous.
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
    single = (each[:, 0] * clear).mean()
    best = each[:, 1:].min(dim=1).values.mean() + 0.05 * each[:, 1:].mean()
    # A user gets the mask that is rated best: it learns too, else the estimate would have to be perfect.
    rated = 0.5 * each[:, 1:].gather(1, quality[:, 1:].argmax(1, keepdim=True)).mean()
    return single + best + rated + 4 * functional.mse_loss(quality, overlap.float())


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
    network.extents = Extents(network.prompt_encoder.embed_dim)
    whole, near = batches(examples, WHOLE, seed), batches(examples, NEAR, seed)
    rng = np.random.default_rng(seed)

    def loss(current: nn.Module, done: float) -> Tensor:
        nearby = NEARBY[0] + (NEARBY[1] - NEARBY[0]) * done
        return batch_loss(
            current, next(near if rng.random() < nearby else whole), rng, EVERYWHERE * (1 - done)
        )

    # Every layer of it is a transformer's, which Muon teaches in fewer steps.
    linear = [part.weight for part in network.modules() if isinstance(part, nn.Linear)]
    trained = train("sam", network, loss, seconds, rate, checkpoint, linear)
    del trained.extents
    return trained


def batch_loss(network: nn.Module, batch: Batch, rng: np.random.Generator, everywhere: float) -> Tensor:
    """Ask for everything in a batch, each picture's objects in one way, and compare.

    Args:
        network: A SAM, with its `Extents`.
        batch: What is shown and asked.
        rng: Chooses the ways.
        everywhere: What `Extents` weighs.
    """
    if (lot := rng.random()) < 0.15:  # these have other numbers of tokens than a box or a point
        ways = ["points" if lot < 0.1 else "both"] * len(batch.asked)
    else:
        ways = ["point" if v < 0.6 else "box" for v in rng.random(len(batch.asked))]
    shown = normalised(network, batch.pictures)
    embeddings = embed(network.image_encoder, shown, batch.top, batch.left)
    with torch.autocast("cpu", torch.bfloat16):
        decoder = TrainingDecoder.of(network, batch.top, batch.left, shown.shape[2] // PLACE)
        pairs = list(zip(batch.asked, ways, strict=True))
        given = torch.cat([encoded(network, asked, how) for asked, how in pairs])
        logits, quality = decoder.answer(embeddings, given)
    truth = torch.from_numpy(np.concatenate([asked.masks for asked in batch.asked])).float()
    clear = torch.tensor([0.3 if how == "point" else 1.0 for asked, how in pairs for _ in asked.masks])
    dense: Tensor = network.extents.loss(embeddings, batch.present, batch.reach)
    return mask_loss(logits.float(), quality.float(), truth, clear) + everywhere * dense


@torch.inference_mode()
def measure_sam(network: nn.Module, examples: list[Example], seed: int) -> dict[str, float]:
    """Mean IoU on unseen pictures, as a user gets it: the mask at full size, chosen by SAM's own estimate.

    Returns:
        `box_iou` (single mask of a box), `point_iou` (best-rated of three for one point), the same for plants
        and for containers alone, and `point_best_iou` (the best of the three, whatever SAM thought).
    """
    rng = np.random.default_rng(seed)
    decoder = TrainingDecoder.of(network)
    found: dict[str, list[float]] = {}
    for one in examples:
        for layer, name in ((0, "plant"), (1, "container")):
            asked = prompts(rng, one.maps, PROMPTS, layers=(layer,), loose=0.04)
            if asked is None:
                continue
            picture = torch.from_numpy(one.pixels.astype(np.float32)).permute(2, 0, 1)[None]
            embedding = network.image_encoder(normalised(network, picture))
            for how in ("box", "point"):
                logits, quality = decoder.answer(embedding, encoded(network, asked, how))
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
