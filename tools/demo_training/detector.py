"""Training and measuring the two detectors: plants, and beds and trays."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_iou

from consumer.models.architectures import fcos_small
from tools.demo_training.loop import load_part, train
from tools.demo_training.pool import Pool, Truth, batches


@dataclass(frozen=True, slots=True)
class Found:
    """A detector's answer for one picture, best first."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def train_detector(
    name: str,
    pool: Pool,
    classes: int,
    seconds: float,
    seed: int,
    start: Path | None,
    checkpoint: Path | None,
    rate: float = 2e-3,
) -> nn.Module:
    """Train a detector on a pool.

    Args:
        name: `plants` or `containers`: which truth of the pool is learnt.
        pool: Tiles.
        classes: Without background.
        seconds: Time budget.
        seed: Of weights and order.
        start: Weights to start from where the shapes agree, if any.
        checkpoint: Where intermediate weights go.
        rate: Highest learning rate.
    """
    torch.manual_seed(seed)
    network = fcos_small(classes).to(memory_format=torch.channels_last)
    if start:
        load_part(network, start)
    if classes > 1:
        _teach_classes(network)
    stream = batches(pool, name, 16, seed)

    def loss(current: nn.Module, done: float) -> Tensor:
        del done
        images, targets = next(stream)
        losses = current(list(images.contiguous(memory_format=torch.channels_last)), targets)
        losses["bbox_ctrness"] *= 0.5
        return torch.stack(list(losses.values())).sum()

    return train(name, network, loss, seconds, rate, checkpoint)


def _teach_classes(network: nn.Module) -> None:
    """Add a loss for telling classes apart where something is.

    FCOS's own loss first learns that something is there, and all classes' scores rise together; in the short
    time there is, they would not part. Beside that, more places around a container's middle count as its own.
    """
    network.center_sampling_radius = 3.0
    usual = network.head.compute_loss

    def compute_loss(
        targets: list[dict[str, Tensor]],
        answers: dict[str, Tensor],
        anchors: list[Tensor],
        matched: list[Tensor],
    ) -> dict[str, Tensor]:
        scores = [
            logits[match >= 0][:, 1:] for logits, match in zip(answers["cls_logits"], matched, strict=True)
        ]
        labels = [target["labels"][match[match >= 0]] for target, match in zip(targets, matched, strict=True)]
        choice = functional.cross_entropy(torch.cat(scores), torch.cat(labels) - 1, reduction="sum")
        losses: dict[str, Tensor] = usual(targets, answers, anchors, matched)
        return {**losses, "choice": choice / max(1, sum(map(len, labels)))}

    network.head.compute_loss = compute_loss


@torch.inference_mode()
def detect(network: nn.Module, pixels: NDArray[np.uint8]) -> Found:
    """Run a detector on one picture at the scale it has."""
    answer = network([torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255])[0]
    order = answer["scores"].argsort(descending=True)
    return Found(answer["boxes"][order], answer["scores"][order], answer["labels"][order])


def matches(found: Found, truth: Truth, least_iou: float = 0.5) -> NDArray[np.float32]:
    """For each found box, best first: its IoU with the truth it is matched to, or 0 for a false one."""
    result = np.zeros(len(found.boxes), dtype=np.float32)
    if not len(truth.boxes) or not len(found.boxes):
        return result
    overlap = box_iou(found.boxes, torch.from_numpy(truth.boxes)).numpy()
    overlap[found.labels.numpy()[:, None] != truth.labels[None]] = 0
    for row in range(len(overlap)):
        best = int(overlap[row].argmax())
        if overlap[row, best] >= least_iou:
            result[row] = overlap[row, best]
            overlap[:, best] = 0
    return result


def measure(answers: list[Found], truths: list[Truth], threshold: float | None = None) -> dict[str, float]:
    """Average precision at IoU 0.5, and what one threshold gives.

    Args:
        answers: Per picture.
        truths: Per picture.
        threshold: Score from which a box counts; the one with the best F1 if not given.

    Returns:
        `ap50`; `threshold`; `precision`, `recall` and `mean_iou` (of the right ones) at the threshold;
        `count_error`, the mean of |found - true| / true over pictures with anything to find;
        `within_a_tenth`, the share of those whose count is off by at most a tenth or one;
        `false_per_empty`, the mean number found in pictures with nothing to find.
    """
    scores = np.concatenate([a.scores.numpy() for a in answers])
    hits = np.concatenate([matches(a, t) for a, t in zip(answers, truths, strict=True)])
    total = max(1, sum(len(t.boxes) for t in truths))
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(hits[order] > 0)
    precision = right / np.arange(1, len(order) + 1)
    recall = right / total
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    ap50 = float(np.sum(np.diff(recall, prepend=0.0) * envelope)) if len(order) else 0.0
    if threshold is None:
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
        # The middle of where it is best: the edges of that range belong to single boxes of this very set.
        best = scores[order][f1 >= f1.max() - 0.005] if len(order) else np.array([0.5])
        threshold = round(float((best[0] + best[-1]) / 2), 2)
    kept = scores >= threshold
    counts = [
        (int((a.scores >= threshold).sum()), len(t.boxes)) for a, t in zip(answers, truths, strict=True)
    ]
    errors = [abs(found - true) / true for found, true in counts if true]
    within = [abs(found - true) <= max(1, 0.1 * true) for found, true in counts if true]
    empty = [found for found, true in counts if not true]
    good = kept & (hits > 0)
    return {
        "ap50": ap50,
        "threshold": threshold,
        "precision": float(good.sum() / max(1, kept.sum())),
        "recall": float(good.sum() / total),
        "mean_iou": float(hits[good].mean()) if good.any() else 0.0,
        "count_error": float(np.mean(errors)) if errors else 0.0,
        "within_a_tenth": float(np.mean(within)) if within else 0.0,
        "false_per_empty": float(np.mean(empty)) if empty else 0.0,
    }
