"""Our run lengths are COCO's own: pycocotools, the referee, makes the same string and reads ours back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from pipeline_steps.artifacts import Mask
from pipeline_steps.masks import run_lengths

# The referee itself, not we, speaks to numpy as numpy 1 wanted it.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Bits = npt.NDArray[np.bool_]


def whole(mask: Mask, width: int, height: int) -> Bits:
    """Return the mask as pixels of the whole picture, cut where it goes beyond it."""
    picture = np.zeros((height, width), np.bool_)
    rows, columns = mask.bits.shape
    picture[mask.y : mask.y + rows, mask.x : mask.x + columns] = mask.bits
    return picture


def referee(picture: Bits) -> str:
    encoded: bytes = coco.encode(np.asfortranarray(picture, np.uint8))["counts"]
    return encoded.decode("ascii")


def decoded(counts: str, width: int, height: int) -> Bits:
    return np.asarray(coco.decode({"size": [height, width], "counts": counts.encode()}), np.bool_)


@st.composite
def masks(draw: st.DrawFn) -> tuple[Mask, int, int]:
    """Return a mask somewhere in a picture, often touching its edges, often full or empty."""
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    columns, rows = draw(st.integers(1, width - x)), draw(st.integers(1, height - y))
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    bits = np.random.default_rng(draw(st.integers(0, 2**32))).random((rows, columns)) < share
    return Mask(bits, x, y), width, height


@settings(max_examples=300, deadline=None)
@given(masks())
def test_any_mask_is_encoded_as_coco_encodes_it(case: tuple[Mask, int, int]) -> None:
    mask, width, height = case
    picture = whole(mask, width, height)

    counts = run_lengths(mask, width, height)

    assert counts == referee(picture)
    assert np.array_equal(decoded(counts, width, height), picture)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((3, 4), np.bool_),
        np.ones((3, 4), np.bool_),
        np.ones((1, 1), np.bool_),
        np.zeros((1, 1), np.bool_),
        np.eye(5, dtype=np.bool_),
        np.indices((6, 7)).sum(axis=0) % 2 == 0,
    ],
    ids=["empty", "full", "one pixel", "no pixel", "diagonal", "checkerboard"],
)
def test_the_extremes_are_encoded_as_coco_encodes_them(picture: Bits) -> None:
    height, width = picture.shape

    assert run_lengths(Mask(picture, 0, 0), width, height) == referee(picture)


def test_a_run_goes_on_from_the_foot_of_one_column_to_the_head_of_the_next() -> None:
    picture = np.zeros((4, 4), np.bool_)
    picture[2:, 1] = picture[:2, 2] = True

    assert run_lengths(Mask(picture[:, 1:3], 1, 0), 4, 4) == referee(picture)


def test_a_large_picture_costs_no_more_than_its_mask() -> None:
    rows, columns = np.ogrid[-300:300, -200:200]
    disc = Mask(rows**2 / 300**2 + columns**2 / 200**2 < 1, 3900, 2800)

    counts = run_lengths(disc, 8000, 6000)

    assert len(counts) < 2000
    assert coco.area({"size": [6000, 8000], "counts": counts.encode()}) == disc.area
