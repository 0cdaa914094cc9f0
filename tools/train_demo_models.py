"""Train the demo models on generated scenes: `python -m tools.train_demo_models`.

Seeded; without options about two hours on two cores for all four. The plant detector comes first, since the
others start from its trunk (they take the one in `--out`). Writes fp16 safetensors, their entries in
`models.yaml`, and `report.json` with what was measured on scenes that no training saw.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from consumer.local.scene_objects import CONTAINER_LABELS
from consumer.local.scene_plants import PLANT_KINDS
from consumer.local.scenes import demo_photo, scene
from consumer.models.architectures import fcos_small, sam_small, small_classifier
from tools.demo_training import detector, kinds, promptable
from tools.demo_training.examples import SIDE, make_examples
from tools.demo_training.export import export, exported
from tools.demo_training.pool import (
    OF_PHOTOS,
    TRAINING_SEEDS,
    UNSEEN_SEEDS,
    Truth,
    make_pool,
    resized,
    truths,
)

SHIPPED = Path("consumer/local/models")
MODELS = ("plants", "containers", "classifier", "sam")
# With the drawing of scenes, two hours on two cores.
SECONDS = {"plants": 1000, "containers": 350, "classifier": 500, "sam": 4150}
RATES = {"detector": 2e-3, "sam": 1e-3}
GOING_ON = 0.35
"""The part of its rate with which a model goes on that has learnt already."""
INPUT_SIZE = {"plants": 720, "containers": 256}
TILES = {"plants": 320, "containers": 256}  # side, pixels


Answers = tuple[list[detector.Found], list[Truth]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything a run does."""

    seconds: dict[str, float]
    tiles: int
    of_photos: int
    examples: int
    crop_scenes: int
    unseen: int
    workers: int
    seed: int
    resume: bool
    folder: Path
    out: Path

    @property
    def trunk(self) -> Path | None:
        """The plant detector's weights, from which the other models start, if there are any."""
        path = self.out / "plants.safetensors"
        return path if path.exists() else None

    def own(self, name: str) -> Path | None:
        """The model's own weights, if it is to go on from them."""
        path = self.out / f"{name}.safetensors"
        return path if self.resume and path.exists() else None

    def rate(self, kind: str, name: str) -> float:
        """The highest learning rate."""
        return RATES[kind] * (GOING_ON if self.own(name) else 1)


def detectors(name: str, plan: Plan) -> dict[str, Any]:
    """Train, export and measure the detector of plants or of containers."""
    classes = ("plant",) if name == "plants" else CONTAINER_LABELS
    pool = make_pool(
        plan.folder, plan.tiles, TILES[name], TRAINING_SEEDS + plan.seed, plan.workers, plan.of_photos
    )
    start = plan.own(name) or (None if name == "plants" else plan.trunk)
    checkpoint = plan.folder / f"{name}-checkpoint.safetensors"
    trained = detector.train_detector(
        name,
        pool,
        len(classes),
        plan.seconds[name],
        plan.seed,
        start,
        checkpoint,
        plan.rate("detector", name),
    )
    return publish_detector(name, trained, plan)


def publish_detector(name: str, trained: nn.Module, plan: Plan) -> dict[str, Any]:
    """Export a detector with the threshold that serves demo photos best, and measure what was exported."""
    classes = ("plant",) if name == "plants" else CONTAINER_LABELS
    size, which = INPUT_SIZE[name], int(name != "plants")
    entry = {
        "name": name,
        "kind": "detection",
        "architecture": "fcos_small",
        "classes": list(classes),
        "threshold": 0.5,
        "input_size": size,
        "max_batch": 8,
    }
    network = exported(fcos_small(len(classes)), export(trained, plan.out, entry))
    photos = on_photos(network, size, which, UNSEEN_SEEDS + 500_000, plan.unseen)
    nothing = on_nothing(network, size, which, UNSEEN_SEEDS + 600_000, plan.unseen)
    tuned = detector.measure(photos[0] + nothing[0], photos[1] + nothing[1])["threshold"]
    entry["threshold"] = min(
        0.55, max(0.4, tuned)
    )  # not higher: what is real scores lower than what is drawn
    export(trained, plan.out, entry)
    report: dict[str, Any] = {"threshold": entry["threshold"], "input_size": size}
    for longer in (size, size * 5 // 4):
        answers = on_photos(network, longer, which, UNSEEN_SEEDS, plan.unseen)
        report[f"demo_photos_{longer}"] = detector.measure(*answers, entry["threshold"])
    nothing = on_nothing(network, size, which, UNSEEN_SEEDS + 700_000, plan.unseen)
    report["found_where_nothing_is"] = detector.measure(*nothing, entry["threshold"])["false_per_empty"]
    report["wild_tiles_320"] = detector.measure(
        *on_tiles(network, which, 3 * plan.unseen), entry["threshold"]
    )
    return report


def on_photos(network: nn.Module, longer: int, which: int, seed: int, count: int) -> Answers:
    """Answers and truth for unseen demo photos, shown as the worker shows them: longer side resized."""
    answers, wanted = [], []
    for index in range(count):
        pixels, boxes = resized(demo_photo(seed + index), longer)
        answers.append(detector.detect(network, pixels))
        wanted.append(boxes[which])
    return answers, wanted


def on_nothing(network: nn.Module, longer: int, which: int, seed: int, count: int) -> Answers:
    """Answers and truth for unseen scenes in which there is nothing to find."""
    layouts = ("empty", "nothing") if which == 0 else ("loose", "nothing")
    height = longer * 3 // 4
    views = [scene(seed + index, height, longer, layout=layouts[index % 2]) for index in range(count)]
    return [detector.detect(network, view.pixels) for view in views], [truths(view)[which] for view in views]


def on_tiles(network: nn.Module, which: int, count: int) -> Answers:
    """Answers and truth for unseen wild tiles at their own scale."""
    views = [scene(UNSEEN_SEEDS + index) for index in range(count)]
    return [detector.detect(network, view.pixels) for view in views], [truths(view)[which] for view in views]


def classifier(plan: Plan) -> dict[str, Any]:
    """Train, export and measure the classifier of plant kinds."""
    crops = kinds.make_crops(plan.crop_scenes, TRAINING_SEEDS + plan.seed, plan.workers)
    trained = kinds.train_classifier(crops, plan.seconds["classifier"], plan.seed, plan.trunk, None)
    return publish_classifier(trained, plan)


def publish_classifier(trained: nn.Module, plan: Plan) -> dict[str, Any]:
    """Export the classifier and measure what was exported."""
    entry = {
        "name": "species",
        "kind": "classification",
        "architecture": "small_classifier",
        "classes": list(PLANT_KINDS),
        "threshold": 0.0,
        "input_size": kinds.SIDE,
        "max_batch": 64,
    }
    network = exported(small_classifier(len(PLANT_KINDS)), export(trained, plan.out, entry))
    unseen = kinds.make_crops(max(8, plan.unseen * 5), UNSEEN_SEEDS, plan.workers)
    return kinds.measure_classifier(network, unseen)


def sam(plan: Plan) -> dict[str, Any]:
    """Train, export and measure the small SAM."""
    examples = make_examples(plan.examples, TRAINING_SEEDS + plan.seed, plan.workers)
    checkpoint = plan.folder / "sam-checkpoint.safetensors"
    trained = promptable.train_sam(
        examples,
        plan.seconds["sam"],
        plan.seed,
        plan.trunk,
        checkpoint,
        plan.own("sam"),
        plan.rate("sam", "sam"),
    )
    return publish_sam(trained, plan)


def publish_sam(trained: nn.Module, plan: Plan) -> dict[str, Any]:
    """Export SAM and measure what was exported."""
    entry = {
        "name": "sam",
        "kind": "sam",
        "architecture": "sam_small",
        "input_size": SIDE,
        "max_batch": 4,
    }
    network = exported(sam_small(), export(trained, plan.out, entry))
    unseen = make_examples(max(5, plan.unseen), UNSEEN_SEEDS, plan.workers)
    return promptable.measure_sam(network, unseen, plan.seed)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=SHIPPED,
        help="folder for models.yaml, weights and report.json (default: %(default)s)",
    )
    parser.add_argument("--only", choices=MODELS, action="append", help="train only these (may be repeated)")
    parser.add_argument("--seconds", type=float, help=f"training time of each model (default {SECONDS})")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and training scenes")
    parser.add_argument(
        "--of-photos",
        type=int,
        choices=range(11),
        default=OF_PHOTOS,
        metavar="0..10",
        help="of ten tiles for detectors, how many come from demo photos (default: %(default)s)",
    )
    parser.add_argument(
        "--tiles", type=int, default=7000, help="that detectors learn from (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="for training and for drawing scenes")
    parser.add_argument(
        "--keep", type=Path, help="folder for scenes and checkpoints (default: a temporary one)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="detectors and SAM go on from their weights in --out"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="half a minute in all, to see that everything runs"
    )
    return parser.parse_args()


def main() -> int:
    """Train what is asked for and write the report."""
    args = arguments()
    torch.set_num_threads(args.threads)
    asked = args.only or MODELS
    seconds = {name: 2.0 if args.smoke else args.seconds or SECONDS[name] for name in MODELS}
    sizes = {"tiles": 32, "examples": 20, "crop_scenes": 16, "unseen": 2} if args.smoke else {
        "tiles": args.tiles, "examples": 5000, "crop_scenes": 3000, "unseen": 60,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        plan = Plan(
            seconds=seconds,
            folder=folder,
            of_photos=args.of_photos,
            workers=args.threads,
            seed=args.seed,
            resume=args.resume,
            out=args.out,
            **sizes,
        )
        trainers: dict[str, Callable[[], dict[str, Any]]] = {
            "plants": lambda: detectors("plants", plan),
            "containers": lambda: detectors("containers", plan),
            "classifier": lambda: classifier(plan),
            "sam": lambda: sam(plan),
        }
        for name in [known for known in MODELS if known in asked]:
            started = time.monotonic()
            report = {**trainers[name](), "seconds": round(time.monotonic() - started)}
            remember(args.out / "report.json", name, report)
            print(json.dumps({name: rounded(report)}, indent=2), flush=True)
    return 0


def remember(path: Path, name: str, report: dict[str, Any]) -> None:
    """Put one model's figures into the report beside those of the others."""
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, name: rounded(report)}, indent=2) + "\n")


def rounded(value: Any) -> Any:
    """Figures with four decimals are exact enough."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
