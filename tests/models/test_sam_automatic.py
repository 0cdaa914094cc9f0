"""The automatic mode against `SamAutomaticMaskGenerator`, with the same weights and parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from segment_anything.utils.amg import build_point_grid, generate_crop_boxes
from torchvision.ops import batched_nms

from consumer.local.scenes import demo_photo
from pipeline_steps.artifacts import Pixels
from pipeline_steps.vision.automatic import crop_boxes, grid, nms
from tests.models.random_models import photo
from tests.models.sams import Found, iou, ours, sam, stock

EVERYTHING: dict[str, Any] = {
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0,
    "points_per_side": 5,
}
SCENE = demo_photo(3, 240, 320).pixels


def same(found: list[Found], expected: list[Found]) -> None:
    """Assert that masks, boxes, areas, scores and order are the same."""
    assert len(found) == len(expected)
    overlaps = [iou(one.bits, other.bits) for one, other in zip(found, expected, strict=True)]
    assert np.mean([overlap >= 0.99 for overlap in overlaps]) >= 0.99
    identical = [one.lengths == other.lengths for one, other in zip(found, expected, strict=True)]
    assert np.mean(identical) >= 0.9  # a pixel whose logit is 0 up to rounding may fall either way
    for one, other, exact in zip(found, expected, identical, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert one.stability == pytest.approx(other.stability, abs=1e-3)
        np.testing.assert_allclose(one.point, other.point)
        assert one.crop == other.crop
        if exact:
            assert (one.box, one.area) == (other.box, other.area)


@pytest.mark.parametrize("name", ["shipped", "vit", "odd"])
@pytest.mark.parametrize(("height", "width"), [(300, 400), (410, 230), (60, 90), (150, 701)])
def test_every_mask_of_every_point_is_stocks(name: str, height: int, width: int) -> None:
    picture = photo(height, width)

    expected = stock(sam(name), picture, **EVERYTHING)

    assert len(expected) == 75
    same(ours(sam(name), picture, **EVERYTHING), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"pred_iou_thresh": 0.75, "stability_score_thresh": 0.85},
        {"pred_iou_thresh": 0.6, "stability_score_thresh": 0.5, "box_nms_thresh": 0.3},
        {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.9, "stability_score_offset": 2.0},
        {"pred_iou_thresh": 0.8, "stability_score_thresh": 0.0},
        {"pred_iou_thresh": 0.6, "stability_score_thresh": 0.8, "crop_n_layers": 1, "points_per_side": 5},
        {
            "pred_iou_thresh": 0.7,
            "stability_score_thresh": 0.7,
            "crop_n_layers": 1,
            "crop_nms_thresh": 0.5,
            "crop_overlap_ratio": 0.2,
            "crop_n_points_downscale_factor": 2,
        },
    ],
)
def test_the_filters_keep_what_stocks_keep_in_its_order(settings: dict[str, Any]) -> None:
    settings = {"points_per_side": 8} | settings

    expected = stock(sam("shipped"), SCENE, **settings)

    assert expected
    same(ours(sam("shipped"), SCENE, **settings), expected)


@pytest.mark.parametrize("picture", [SCENE, np.zeros((50, 60, 3), np.uint8)])
def test_nothing_good_enough_is_nothing(picture: Pixels) -> None:
    settings = {"pred_iou_thresh": 9.0, "points_per_side": 4}

    assert ours(sam("shipped"), picture, **settings) == stock(sam("shipped"), picture, **settings) == []


@pytest.mark.parametrize("boxes", [0, 1, 40, 900])
@pytest.mark.parametrize("threshold", [0.3, 0.7, 1.0])
def test_boxes_are_suppressed_as_torchvision_suppresses_them_with_its_ties(
    boxes: int, threshold: float
) -> None:
    rng = np.random.default_rng(boxes)
    corners = rng.integers(0, 30, (boxes, 2))
    # Some a pixel wide or high, whose boxes have no area to stock; and few different scores.
    inclusive = np.concatenate([corners, corners + rng.integers(0, 12, (boxes, 2))], 1).astype(np.float32)
    score = rng.choice(np.linspace(0.5, 1, 9), boxes).astype(np.float32)

    kept = nms(inclusive + np.array([0, 0, 1, 1], np.float32), score, threshold)

    assert kept.tolist() == _torchvisions(inclusive, score, threshold)


def _torchvisions(
    boxes: npt.NDArray[np.float32], score: npt.NDArray[np.float32], threshold: float
) -> list[int]:
    kept: list[int] = batched_nms(
        torch.from_numpy(boxes), torch.from_numpy(score), torch.zeros(len(boxes)), iou_threshold=threshold
    ).tolist()
    return kept


@pytest.mark.parametrize("per_side", [1, 2, 7, 32])
def test_the_grid_is_stocks(per_side: int) -> None:
    np.testing.assert_array_equal(grid(per_side), build_point_grid(per_side))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2000), (2000, 1), (3, 5)])
def test_a_picture_of_any_shape_can_be_searched_with_its_crops(height: int, width: int) -> None:
    settings = EVERYTHING | {"stability_score_thresh": 0.01, "points_per_side": 2, "crop_n_layers": 2}

    found = ours(sam("shipped"), photo(height, width), **settings)

    assert all(1 <= one.area <= height * width for one in found)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 40), (5, 3)])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_no_crop_of_a_tiny_picture_is_empty(width: int, height: int, layers: int) -> None:
    crops = [box for _, box in crop_boxes(width, height, layers, 512 / 1500)]

    assert crops[0] == (0, 0, width, height)
    assert all(x1 < x2 <= width and y1 < y2 <= height for x1, y1, x2, y2 in crops)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (333, 1000)])
@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_the_crops_are_stocks(width: int, height: int, layers: int) -> None:
    boxes, numbers = generate_crop_boxes((height, width), layers, 512 / 1500)

    found = list(crop_boxes(width, height, layers, 512 / 1500))

    assert [list(box) for _, box in found] == boxes
    assert [layer for layer, _ in found] == numbers
