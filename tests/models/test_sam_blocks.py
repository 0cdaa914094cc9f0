"""Masks as large as the picture, of which only the edges are computed, against stock's whole ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score
from torch import Tensor
from torch.nn import functional

from consumer.models.sam.blocks import sketch
from consumer.models.sam.stretch import Stretch, sam_stretch
from pipeline_steps.artifacts import Mask
from tests.models.sams import CPU, iou, sam, whole

SIZES = [(300, 400), (33, 700), (700, 33), (512, 512), (999, 1500), (64, 64), (5, 5), (1, 40)]


def landscape(masks: int, cells: int) -> Tensor:
    """Return logits with hills, valleys and noise; the last four are all inside, outside, unsure, unknown."""
    coarse = torch.randn(masks, 1, 8, 8)
    hills = functional.interpolate(coarse, (cells, cells), mode="bicubic")[:, 0] * 6
    hills += 0.3 * torch.randn(masks, cells, cells)
    hills[-4:] = torch.tensor([5.0, -5.0, 0.5, torch.nan])[:, None, None]
    return hills


def stretches(cells: int, side: int, height: int, width: int) -> tuple[Stretch, Stretch, tuple[int, int]]:
    scale = side / max(height, width)
    shown = (int(height * scale + 0.5), int(width * scale + 0.5))
    rows = sam_stretch(cells, side, shown[0], height, CPU)
    return rows, sam_stretch(cells, side, shown[1], width, CPU), shown


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("name", "cells"), [("vit", 40), ("shipped", 128)])
def test_masks_boxes_areas_and_stability_are_those_of_whole_masks(
    name: str, cells: int, height: int, width: int
) -> None:
    network = sam(name)
    logits = landscape(10, cells)
    rows, columns, shown = stretches(cells, network.image_encoder.img_size, height, width)

    found = sketch(logits, rows, columns, 0.0, 1.0)

    stretched = network.postprocess_masks(logits[:, None], shown, (height, width))[:, 0]
    stability = calculate_stability_score(stretched, 0.0, 1.0).numpy()
    expected = stretched > 0
    boxes = batched_mask_to_box(expected)
    np.testing.assert_allclose(found.stability, stability, atol=1e-4)
    for one, bits, box in zip(found.sketches, expected.numpy(), boxes.tolist(), strict=True):
        assert one.area == pytest.approx(bits.sum(), abs=2)
        if not one.area:
            assert one.xyxy == (0, 0, 0, 0)
            continue
        mask = one.drawn()
        assert iou(whole(mask, height, width), bits) >= 0.999
        assert mask.area == one.area
        left, top, right, bottom = one.xyxy
        assert (mask.x, mask.y, *mask.bits.shape) == (left, top, bottom - top, right - left)
        np.testing.assert_allclose([left, top, right - 1, bottom - 1], box, atol=1)
        assert mask.bits.any(1)[[0, -1]].all()
        assert mask.bits.any(0)[[0, -1]].all()


def test_a_mask_of_everything_is_the_whole_picture_and_needs_no_bits() -> None:
    rows, columns, _ = stretches(128, 256, 700, 900)

    (found,) = sketch(torch.full((1, 128, 128), 3.0), rows, columns, 0.0, 1.0).sketches

    assert found.area == 700 * 900
    assert found.bits.nbytes == 0
    assert found.drawn() == Mask(np.ones((700, 900), np.bool_), 0, 0)


def test_a_mask_in_the_padding_only_is_nothing() -> None:
    rows, columns, _ = stretches(128, 256, 100, 900)
    logits = torch.full((1, 128, 128), -3.0)
    logits[:, 64:] = 3.0

    (found,) = sketch(logits, rows, columns, 0.0).sketches

    assert found.area == 0
    with pytest.raises(ValueError, match="without a pixel"):
        found.drawn()


def test_no_masks_are_no_sketches() -> None:
    rows, columns, _ = stretches(128, 256, 100, 100)

    found = sketch(torch.zeros(0, 128, 128), rows, columns, 0.0, 1.0)

    assert found.sketches == []
    assert found.stability.shape == (0,)


def test_a_sketch_is_small_however_large_the_picture_is() -> None:
    rows, columns, _ = stretches(256, 1024, 6000, 8000)
    logits = torch.full((1, 256, 256), -3.0)
    logits[:, 20:170, 30:220] = 3.0

    (found,) = sketch(logits, rows, columns, 0.0, 1.0).sketches

    assert found.area > 20e6
    assert found.bits.nbytes + found.inside.nbytes < 200_000
