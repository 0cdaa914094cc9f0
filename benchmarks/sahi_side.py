"""SAHI, in an environment of its own: takes requests as lines of JSON, answers each with a line of JSON.

It is used as its documentation says: an `AutoDetectionModel` of a torchvision network,
`get_sliced_prediction`, and its post-processing on its own objects, with numba where that is installed.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from sahi import AutoDetectionModel
from sahi.postprocess.backends import resolve_backend
from sahi.postprocess.combine import GreedyNMMPostprocess
from sahi.predict import get_sliced_prediction
from sahi.prediction import ObjectPrediction

from consumer.models.architectures import fcos_small

TILE, OVERLAP = 512, 0.25


def detector(weights: Path, threshold: float) -> Any:
    """Return SAHI's model of our detector."""
    network = fcos_small(1)
    network.load_state_dict(load_file(weights))
    return AutoDetectionModel.from_pretrained(
        model_type="torchvision",
        model=network,
        confidence_threshold=threshold,
        category_mapping={"1": "plant"},
        device="cpu",
    )


def detect(model: Any, photo: np.ndarray, batch: int) -> tuple[float, list[list[float]]]:
    """Return the seconds a photo takes, and what is found: x1, y1, x2, y2, score."""
    began = time.perf_counter()
    found = get_sliced_prediction(
        photo,
        model,
        slice_height=TILE,
        slice_width=TILE,
        overlap_height_ratio=OVERLAP,
        overlap_width_ratio=OVERLAP,
        perform_standard_pred=False,
        postprocess_type="GREEDYNMM",
        postprocess_match_metric="IOS",
        postprocess_match_threshold=0.5,
        batch_size=batch,
        verbose=0,
    ).object_prediction_list
    seconds = time.perf_counter() - began
    return seconds, [[*map(float, one.bbox.to_xyxy()), float(one.score.value)] for one in found]


def merge(boxes: np.ndarray, block: float = 0.3) -> tuple[float, list[list[float]]]:
    """Return the seconds merging takes, not counting the objects made for it, and what is left."""
    merging = GreedyNMMPostprocess(match_threshold=0.5, match_metric="IOS", class_agnostic=False)
    seconds, times, left = 0.0, 0, []
    while seconds < block:
        found = [
            ObjectPrediction(bbox=row[:4], score=row[4], category_id=int(row[5]), category_name=str(row[5]))
            for row in boxes.tolist()
        ]
        began = time.perf_counter()
        left = merging(found)
        seconds += time.perf_counter() - began
        times += 1
    return seconds / times, [[*map(float, one.bbox.to_xyxy()), float(one.score.value)] for one in left]


def main() -> None:
    """Answer until nobody asks."""
    torch.set_num_threads(1)
    model = detector(Path(sys.argv[1]), float(sys.argv[2]))
    photos: dict[str, np.ndarray] = {}
    about = {"sahi": version("sahi"), "torch": version("torch"), "backend": resolve_backend()}
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "merge":
            answer = merge(np.load(asked["boxes"]))
        else:
            if asked["photo"] not in photos:
                photos = {asked["photo"]: np.load(asked["photo"])}
            answer = detect(model, photos[asked["photo"]], asked["batch"])
            if asked.get("forget"):
                photos = {}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
