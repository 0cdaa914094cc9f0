"""Sizes by both rules, with their boundaries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps.artifacts import Detections, Image, Size
from pipeline_steps.errors import InvalidInput
from pipeline_steps.findings.size_calculator import SizeCalculatorParams, banded, calculate, flat
from tests.pipeline_steps.fakes import detections_of

S, M, L, XL = Size.S, Size.M, Size.L, Size.XL


def of_areas(*areas: float) -> np.ndarray:
    return np.array([(0, 0, area, 1) for area in areas], np.float32)


def of_heights(*places: tuple[float, float]) -> np.ndarray:
    """Return boxes of (centre y, height)."""
    return np.array([(0, y - h / 2, 10, y + h / 2) for y, h in places], np.float32)


def test_boundaries_belong_to_the_smaller_size_above_and_to_m_below() -> None:
    # All have the mean 100; the second and third the population deviation 10.
    assert flat(of_areas(80, *[102.5] * 8)).tolist()[0] == S  # z = -2.83
    assert flat(of_areas(80, 120, *[100] * 6)).tolist()[:2] == [M, L]  # z = -2 and z = 2
    assert flat(of_areas(90, 110)).tolist() == [M, M]  # z = -1 and z = 1
    assert flat(of_areas(120, *[97.5] * 8)).tolist()[0] == XL  # z = 2.83


def test_z_between_1_and_2_is_l() -> None:
    assert flat(of_areas(100, 100, 130)).tolist() == [M, M, L]  # z = 1.41


def test_the_deviation_is_that_of_the_population() -> None:
    assert flat(of_areas(*[100] * 5, 200)).tolist()[-1] == XL  # population 2.24, sample 2.04
    assert flat(of_areas(*[100] * 4, 200)).tolist()[-1] == L  # population 2.0, sample 1.79


@pytest.mark.parametrize("areas", [(50,), (50, 50, 50), (50, 50)])
def test_one_detection_or_equal_ones_are_m(areas: tuple[float, ...]) -> None:
    assert flat(of_areas(*areas)).tolist() == [M] * len(areas)


def test_equal_boxes_far_from_the_corner_are_equal_despite_rounding() -> None:
    corner = np.random.default_rng(3).uniform(0, 8000, (500, 2))
    boxes = np.concatenate([corner, corner + 21.3], axis=1).astype(np.float32)

    assert set(flat(boxes).tolist()) == {M}


def test_no_detections_have_no_sizes() -> None:
    picture = Image(np.zeros((10, 10, 3), np.uint8))

    for mode in ("flat", "band"):
        assert len(calculate(Detections.none(), picture, SizeCalculatorParams(mode=mode))) == 0


def test_sizes_hold_the_ids_of_their_detections() -> None:
    found = detections_of([(0, 0, 10, 10)] * 8 + [(0, 0, 90, 90)], first_id=40)

    sizes = calculate(found, None, SizeCalculatorParams())

    assert sizes.detection.tolist() == found.id.tolist()
    assert sizes.size.tolist() == [M] * 8 + [XL]
    assert sizes.size.dtype == np.int8


areas = st.lists(st.integers(1, 400), min_size=1, max_size=30)


@given(areas, st.randoms())
def test_sizes_do_not_depend_on_the_order_of_detections(values: list[int], random: object) -> None:
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined]

    straight = flat(of_areas(*values))
    mixed = flat(of_areas(*(values[i] for i in order)))

    assert mixed.tolist() == [straight[i] for i in order]


@given(areas)
def test_a_larger_plant_never_has_a_smaller_size(values: list[int]) -> None:
    sizes = flat(of_areas(*sorted(values)))

    assert sizes.tolist() == sorted(sizes.tolist())


FOUR_BANDS = Image(np.zeros((400, 100, 3), np.uint8))


@pytest.mark.parametrize(
    ("height", "usual"), [(44, S), (45, M), (59, M), (60, L), (79, L), (80, XL), (200, XL)]
)
def test_the_usual_size_follows_from_the_median_height(height: float, usual: Size) -> None:
    assert banded(of_heights((50, height), (150, height)), FOUR_BANDS, 4).tolist() == [usual, usual]


def test_far_plants_are_as_large_as_near_ones_of_the_same_kind() -> None:
    # 30 px high at the top, 70 at the bottom: each band evened out to the median of all, 50.
    boxes = of_heights(*[(50, 30)] * 6, *[(350, 70)] * 6)

    assert banded(boxes, FOUR_BANDS, 4).tolist() == [M] * 12
    assert set(flat(boxes).tolist()) == {M}


def test_a_plant_off_its_band_is_one_or_more_sizes_off() -> None:
    heights = [50.0] * 12 + [20, 37, 62, 80]
    boxes = of_heights(*((50, h) for h in heights))
    z = (np.array(heights) - np.mean(heights)) / np.std(heights)

    assert z[12] < -2 < z[13] < -1 < 1 < z[14] < 2 < z[15]
    assert banded(boxes, FOUR_BANDS, 4).tolist() == [M] * 12 + [S, S, L, XL]


def test_the_bands_are_those_of_the_picture_given() -> None:
    lower = Image(FOUR_BANDS.pixels, 0, 1000)
    boxes = of_heights(*[(50, 30)] * 6, *[(350, 70)] * 6)
    moved = boxes + np.array([0, 1000, 0, 1000], np.float32)

    assert banded(moved, lower, 4).tolist() == banded(boxes, FOUR_BANDS, 4).tolist()


def test_only_bands_need_the_picture() -> None:
    assert SizeCalculatorParams().needs() == frozenset()
    assert SizeCalculatorParams(mode="band").needs() == {Image}
    with pytest.raises(InvalidInput):
        calculate(Detections.none(), None, SizeCalculatorParams(mode="band"))
