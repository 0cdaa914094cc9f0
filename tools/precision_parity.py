"""How far `fast` is from `exact`, for each packaged model: `python -m tools.precision_parity [--page]`.

Both look at the same generated scenes, which no training saw, on this CPU; what a CPU and a GPU round
differently is far less than 16 bits do. Writes docs/precision.json, and its figures into docs/precision.md;
`--page` only the latter; `--only plants sam` leaves the other models' figures alone. Takes some minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from consumer.local.scenes import Scene, demo_photo, scene
from consumer.models.architectures import ARCHITECTURES
from consumer.models.manifest import Manifest, ModelEntry, load_manifest
from consumer.models.precision import exact_float32, reduce_trunk
from consumer.models.runner import AnyRunner, Prompt
from consumer.models.torch_loader import RUNNERS, ready_to_answer
from pipeline_steps.artifacts import Image, Mask
from pipeline_steps.geometry import overlaps
from pipeline_steps.models import LocalBoxes, MaskQuality, ModelKind
from pipeline_steps.vision.automatic import Search, find
from tests.models.sams import OneModel
from tests.pipeline_steps.fakes import context
from tools.precision_page import FIGURES, PAGE, rendered

SCENES = 24
DTYPES = (torch.bfloat16, torch.float16)
"""What `fast` computes in, here or there."""
CPU = torch.device("cpu")
_SEEDS = 3_000_000_000
"""Trainings and their evaluations use smaller ones."""
_SEARCH = Search(MaskQuality(0.5, 0.8), points_per_side=12, box_nms_thresh=0.7)
"""The shipped SAM is small: of stock's thresholds it passes few masks to compare."""
_VISIBLE = 12 / 256
"""A plant smaller than this share of the picture is too small for the shipped SAM (docs/demo-models.md)."""
_SAME = 0.5
"""IoU from which on two boxes or masks are of one thing."""

Overlaps = npt.NDArray[np.float32]
Figures = dict[str, float]


def shipped() -> Manifest:
    """Return the packaged models."""
    return load_manifest(Path(str(files("consumer.local") / "models")))


def unseen(count: int, height: int = 720, width: int = 960) -> list[Scene]:
    """Return scenes: in turns a photo as a nursery takes it, and a wild one."""
    made = (demo_photo, scene)
    return [made[number % 2](_SEEDS + number, height, width) for number in range(count)]


def runner(manifest: Manifest, model: ModelEntry, dtype: torch.dtype | None) -> AnyRunner:
    """Return the model as the worker runs it, its trunk in `dtype`; None is `exact`."""
    network = ready_to_answer(model, Path(manifest.location(model)), ARCHITECTURES)
    if dtype is not None:
        reduce_trunk(network, dtype, CPU.type)
    return RUNNERS[model.kind](network, model.spec, CPU, model.max_batch)


def parity(model: ModelEntry, exact: AnyRunner, fast: AnyRunner, scenes: Sequence[Scene]) -> Figures:
    """Return what differs between two runners of one model, by the names that the page knows."""
    with torch.inference_mode():
        match model.kind:
            case ModelKind.DETECTION:
                return _of_boxes([[_boxes(one, model, seen) for one in (exact, fast)] for seen in scenes])
            case ModelKind.SAM:
                return _of_masks(exact, fast, scenes)
            case ModelKind.CLASSIFICATION:
                return _of_classes(exact, fast, scenes)
    raise ValueError(f"model {model.name!r}: nothing here compares {model.kind} models")


# ------------------------------------------------------------------------------------------------- detectors


def _of_boxes(pairs: Iterable[Sequence[LocalBoxes]]) -> Figures:
    ious: list[float] = []
    scores: list[float] = []
    total = extra = changed = 0
    for exact, fast in pairs:
        alike = np.where(exact.label[:, None] == fast.label, overlaps(exact.xyxy, fast.xyxy), 0)
        matched = _matched(alike)
        ious += [float(alike[row, column]) for row, column in matched]
        scores += [abs(float(exact.score[row] - fast.score[column])) for row, column in matched]
        total += len(exact)
        extra += len(fast) - len(matched)
        changed += len(exact) != len(fast)
    return {
        "things": total,
        "matched": len(ious) / total,
        "extra": extra,
        "mean_iou": float(np.mean(ious)),
        "least_iou": min(ious),
        "mean_score_difference": float(np.mean(scores)),
        "largest_score_difference": max(scores),
        "pictures_with_another_count": changed,
    }


def _boxes(one: AnyRunner, model: ModelEntry, seen: Scene) -> LocalBoxes:
    (found,) = one.run([one.prepare(seen.pixels)])
    return found.above(model.threshold)  # type: ignore[no-any-return]


def _matched(alike: Overlaps) -> list[tuple[int, int]]:
    """Return pairs of rows and columns of one thing, the most alike first, each row and column once."""
    left, pairs = alike.copy(), []
    while left.size and left.max() >= _SAME:
        row, column = (int(place) for place in np.unravel_index(left.argmax(), left.shape))
        pairs.append((row, column))
        left[row], left[:, column] = 0, 0
    return pairs


# ------------------------------------------------------------------------------------------------------- SAM


def _of_masks(exact: AnyRunner, fast: AnyRunner, scenes: Sequence[Scene]) -> Figures:
    prompted: list[float] = []
    pairs: list[float] = []
    total = extra = changed = 0
    for seen in scenes:
        drawn = partial(_drawn, shape=seen.pixels.shape[:2])
        for one, other in zip(*(_of_prompts(each, seen) for each in (exact, fast)), strict=True):
            prompted.append(_iou(drawn(one), drawn(other)))
        first, second = (list(map(drawn, _everything(each, seen))) for each in (exact, fast))
        alike = np.array([[_iou(a, b) for b in second] for a in first], np.float32)
        matched = _matched(alike.reshape(len(first), len(second)))
        pairs += [float(alike[place]) for place in matched]
        total += len(first)
        extra += len(second) - len(matched)
        changed += len(first) != len(second)
    return {
        "prompts": len(prompted),
        "mean_iou_for_a_box": float(np.mean(prompted)),
        "boxes_alike": float(np.mean(np.array(prompted) >= 0.9)),
        "least_iou_for_a_box": min(prompted),
        "things": total,
        "matched": len(pairs) / total,
        "extra": extra,
        "mean_iou": float(np.mean(pairs)),
        "least_iou": min(pairs),
        "pictures_with_another_count": changed,
    }


def _of_prompts(one: AnyRunner, seen: Scene) -> list[Mask]:
    """Return a mask for the box of every container, and of up to eight plants, that it can make out."""
    (embedding,) = one.run([one.prepare(seen.pixels)])
    large = (seen.plants[:, 2:] - seen.plants[:, :2]).max(axis=1) >= _VISIBLE * max(seen.pixels.shape)
    boxes = np.concatenate([seen.containers, seen.plants[large][:8]])
    return [found.mask for box in boxes for found in one.run([Prompt(embedding, box)])]


def _everything(one: AnyRunner, seen: Scene) -> tuple[Mask, ...]:
    """Return the masks of the automatic mode."""
    ctx = context(OneModel(one))  # type: ignore[arg-type]
    return asyncio.run(find("sam", Image(seen.pixels), _SEARCH, ctx)).masks()


def _drawn(mask: Mask, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    picture = np.zeros(shape, np.bool_)
    height, width = mask.bits.shape
    picture[mask.y : mask.y + height, mask.x : mask.x + width] = mask.bits
    return picture


def _iou(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


# ----------------------------------------------------------------------------------------------- classifiers


def _of_classes(exact: AnyRunner, fast: AnyRunner, scenes: Sequence[Scene]) -> Figures:
    crops = [Image(seen.pixels).crop(box).pixels for seen in scenes for box in seen.plants]
    sure, rough = (np.concatenate([one.run([one.prepare(crop)]) for crop in crops]) for one in (exact, fast))
    differences = np.abs(sure - rough).max(axis=1)
    return {
        "things": len(crops),
        "agreement": float((sure.argmax(1) == rough.argmax(1)).mean()),
        "mean_score_difference": float(differences.mean()),
        "largest_score_difference": float(differences.max()),
    }


def measured(model: ModelEntry, manifest: Manifest, scenes: Sequence[Scene]) -> Iterator[dict[str, Any]]:
    """Yield the model's figures in each of the 16 bits, as docs/precision.json has them."""
    exact = runner(manifest, model, None)
    for dtype in DTYPES:
        figures = parity(model, exact, runner(manifest, model, dtype), scenes)
        about = {"model": model.name, "sha256": model.sha256, "dtype": str(dtype).removeprefix("torch.")}
        yield about | {"scenes": len(scenes)} | {name: round(value, 5) for name, value in figures.items()}


def main() -> int:
    """Measure, unless told not to, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--page", action="store_true", help="measure nothing, only write the page")
    parser.add_argument("--scenes", type=int, default=SCENES, help="how many are looked at")
    manifest = shipped()
    parser.add_argument("--only", nargs="*", choices=manifest.models, help="measure these models anew")
    args = parser.parse_args()
    exact_float32()
    chosen = [] if args.page else args.only or list(manifest.models)
    rows = {
        name: [row for row in json.loads(FIGURES.read_text()) if row["model"] == name]
        for name in manifest.models
    }
    scenes = unseen(args.scenes) if chosen else []
    for name in chosen:
        rows[name] = []
        for row in measured(manifest.models[name], manifest, scenes):
            print(row, flush=True)
            rows[name].append(row)
        FIGURES.write_text(json.dumps([row for some in rows.values() for row in some], indent=1) + "\n")
    PAGE.write_text(rendered(PAGE.read_text(), json.loads(FIGURES.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
