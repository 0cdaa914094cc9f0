"""Ask SAHI itself how it cuts pictures and merges boxes.

Its answers stand in `sahi_answers.json`, because it brings OpenCV, which this project does without. Where
`sahi` is installed, `test_sahi_parity.py` asks it again. To write the file anew::

    pip install sahi==0.12.8
    python -m tests.pipeline_steps.vision.ask_sahi
"""

from __future__ import annotations

import json
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

ANSWERS = Path(__file__).with_name("sahi_answers.json")
NAMES = ("plant", "weed", "moss")
METHODS = ("nms", "greedynmm", "nmm")
METRICS = ("iou", "ios")
THRESHOLDS = (0.3, 0.5)
SCENES = 3

Row: TypeAlias = tuple[float, float, float, float, float, int]
"""x1, y1, x2, y2, score, class."""


class Question(NamedTuple):
    """How boxes are to be merged."""

    method: str
    metric: str
    threshold: float
    class_agnostic: bool


class Cut(NamedTuple):
    """How a picture is to be cut."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    overlap: float


QUESTIONS = [Question(*parts) for parts in product(METHODS, METRICS, THRESHOLDS, (False, True))]
CUTS = [
    Cut(1024, 1024, 512, 512, 0.25),
    Cut(1629, 2244, 512, 512, 0.25),
    Cut(4000, 3000, 512, 512, 0.2),
    Cut(896, 100, 512, 512, 0.25),
    Cut(300, 200, 512, 512, 0.25),
    Cut(1000, 601, 333, 256, 0.1),
    Cut(777, 1333, 128, 96, 0.5),
    Cut(640, 640, 640, 640, 0.0),
    Cut(641, 640, 640, 640, 0.9),
]


def scene(seed: int, boxes: int = 48) -> list[Row]:
    """Return boxes of a few things; every other scene has round numbers, equal scores and twins."""
    rng = np.random.default_rng(seed)
    things = rng.uniform(20, 280, (boxes // 4, 2))
    centre = things[rng.integers(0, len(things), boxes)] + rng.normal(0, 6, (boxes, 2))
    side = rng.uniform(10, 50, (boxes, 2))
    xyxy = np.round(np.concatenate([centre - side / 2, centre + side / 2], axis=1).clip(0) * 8) / 8
    score = (rng.permutation(boxes) + 1) / 64
    if seed % 2:
        xyxy, score = np.round(xyxy), np.ceil(score * 8) / 8
        xyxy[-5:] = xyxy[:5]
        score[-3:] = score[:3]
    kind = rng.integers(0, len(NAMES), boxes)
    return [(*box, s, int(k)) for box, s, k in zip(xyxy.tolist(), score.tolist(), kind, strict=True)]


def sahi_merged(rows: list[Row], question: Question) -> list[Row]:
    """Return what SAHI's post-processing leaves, sorted."""
    from sahi.postprocess.backends import set_postprocess_backend
    from sahi.postprocess.combine import GreedyNMMPostprocess, NMMPostprocess, NMSPostprocess
    from sahi.prediction import ObjectPrediction

    set_postprocess_backend("numpy")  # what "auto" is without numba and without a GPU
    methods = {"nms": NMSPostprocess, "greedynmm": GreedyNMMPostprocess, "nmm": NMMPostprocess}
    merge = methods[question.method](
        match_threshold=question.threshold,
        match_metric=question.metric.upper(),
        class_agnostic=question.class_agnostic,
    )
    found = [
        ObjectPrediction(bbox=list(box), score=score, category_id=kind, category_name=NAMES[kind])
        for *box, score, kind in rows
    ]
    return sorted((*map(float, one.bbox.to_xyxy()), one.score.value, one.category.id) for one in merge(found))


def sahi_tiles(cut: Cut) -> list[list[int]]:
    """Return the tiles as SAHI cuts them."""
    from sahi.slicing import get_slice_bboxes

    return get_slice_bboxes(
        cut.height,
        cut.width,
        cut.tile_height,
        cut.tile_width,
        overlap_height_ratio=cut.overlap,
        overlap_width_ratio=cut.overlap,
    )


def main() -> None:
    """Write SAHI's answers."""
    answers = {
        "sahi": version("sahi"),
        "scenes": [
            {"boxes": scene(seed), "merged": [[*q, sahi_merged(scene(seed), q)] for q in QUESTIONS]}
            for seed in range(SCENES)
        ],
        "tiles": [[*cut, sahi_tiles(cut)] for cut in CUTS],
    }
    ANSWERS.write_text(json.dumps(answers, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
