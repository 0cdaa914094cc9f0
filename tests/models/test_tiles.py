"""Detection in tiles with the demo detector, against SAHI's procedure with the same weights."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import consumer.local
from consumer.local.scenes import demo_photo
from consumer.models.architectures import ARCHITECTURES
from consumer.models.manifest import Manifest, load_manifest
from consumer.models.pool import ModelPool
from consumer.models.torch_loader import torch_pool
from consumer.models.weights import load
from pipeline_steps.artifacts import Detections, Image, Pixels
from pipeline_steps.geometry import overlaps, tiles
from pipeline_steps.vision.sahi_detection import SahiDetectionParams, detect_in_tiles
from tests.pipeline_steps.fakes import context
from tests.pipeline_steps.vision.test_merging import plainly_merged

MODELS = Path(consumer.local.__file__).parent / "models"
MANIFEST = load_manifest(MODELS)
PLANTS = MANIFEST.models["plants"]
TILE, OVERLAP = 256, 0.25

Found = npt.NDArray[np.float32]
"""x1, y1, x2, y2, score."""


@pytest.fixture(scope="module")
def picture() -> Pixels:
    return demo_photo(5, 512, 640).pixels


@pytest.fixture(scope="module")
def stock() -> Any:
    """The network as torchvision runs it."""
    return load(PLANTS, MODELS / PLANTS.weights, ARCHITECTURES)


def in_tiles(cache: Path, picture: Pixels, **params: object) -> Detections:
    chosen = SahiDetectionParams.model_validate(
        {"sahi_slice_width": TILE, "sahi_slice_height": TILE, "sahi_overlap_ratio": OVERLAP, **params}
    )

    async def run() -> Detections:
        only_plants = Manifest(MANIFEST.base, [PLANTS])
        models: ModelPool = torch_pool(only_plants, ["cpu"], cache=cache)
        await models.start()
        found = await detect_in_tiles(Image(picture), None, None, chosen, context(models))
        await models.close()
        return found

    return asyncio.run(run())


def looks(network: Any, picture: Pixels, *, whole: bool) -> Iterator[tuple[tuple[float, ...], float]]:
    """Look at each tile by itself, at full size and in floats, as SAHI does."""
    places = tiles(picture.shape[1], picture.shape[0], TILE, TILE, OVERLAP).tolist()
    for left, top, right, bottom in places + ([[0, 0, picture.shape[1], picture.shape[0]]] if whole else []):
        tile = np.ascontiguousarray(picture[top:bottom, left:right].transpose(2, 0, 1))
        (found,) = network([torch.from_numpy(tile).float() / 255])
        for box, score in zip(found["boxes"].tolist(), found["scores"].tolist(), strict=True):
            if score > PLANTS.threshold:
                yield (box[0] + left, box[1] + top, box[2] + left, box[3] + top), score


def assert_the_same(ours: Detections, theirs: Found) -> None:
    assert len(ours) == len(theirs) > 5
    same = overlaps(ours.xyxy, theirs[:, :4]) >= 0.99
    same &= np.abs(ours.score[:, None] - theirs[:, 4]) <= 1e-3
    assert same.any(axis=0).all()
    assert same.any(axis=1).all()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("method", ["greedynmm", "nms"])
def test_what_is_found_in_tiles_is_what_sahis_procedure_finds(
    method: Any, whole: bool, picture: Pixels, stock: Any, tmp_path: Path
) -> None:
    rows = [(box, score, "plant") for box, score in looks(stock, picture, whole=whole)]
    expected = plainly_merged(rows, method, "ios", 0.5, class_agnostic=False)

    found = in_tiles(tmp_path, picture, postprocess=method, perform_standard_pred=whole)

    assert_the_same(found, np.array([(*box, score) for box, score, _ in expected], np.float32))


def test_what_is_found_in_tiles_is_what_the_installed_sahi_finds(
    picture: Pixels, stock: Any, tmp_path: Path
) -> None:
    sahi = pytest.importorskip("sahi", reason="SAHI brings OpenCV, so it is no dependency: pip install sahi")
    predict = pytest.importorskip("sahi.predict")
    model = sahi.AutoDetectionModel.from_pretrained(
        model_type="torchvision",
        model=stock,
        confidence_threshold=PLANTS.threshold,
        category_mapping={"1": "plant"},
        device="cpu",
    )
    answer = predict.get_sliced_prediction(
        picture, model, TILE, TILE, OVERLAP, OVERLAP, perform_standard_pred=True, verbose=0
    )
    expected = [[*map(float, one.bbox.to_xyxy()), one.score.value] for one in answer.object_prediction_list]

    found = in_tiles(tmp_path, picture, perform_standard_pred=True)

    assert_the_same(found, np.array(expected, np.float32))
