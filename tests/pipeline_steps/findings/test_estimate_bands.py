"""Plants estimated from vegetation in bands."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps.artifacts import Detections, Image, Mask, PlantEstimates, Segments
from pipeline_steps.errors import DeadlineExceeded
from pipeline_steps.findings.estimate_bands import EstimateBandsParams, estimate, plant_area, vegetation
from tests.pipeline_steps.fakes import context, countdown, detections_of, scope, segments_of

GREEN, SOIL, DARK_SOIL = (60, 150, 50), (120, 85, 60), (35, 25, 18)
GRAVEL, SAND, COLD_PLASTIC = (205, 205, 203), (194, 178, 128), (80, 109, 114)


def ground(colour: tuple[int, int, int], height: int = 400, width: int = 200, noise: float = 0) -> Image:
    rng = np.random.default_rng(1)
    # One value a pixel for all channels: light and grain change brightness, hardly colour.
    grain = rng.normal(0, noise, (height, width, 1)) if noise else np.zeros((height, width, 1))
    return Image(np.clip(np.array(colour) + grain, 0, 255).astype(np.uint8))


def halves() -> Image:
    """Left green, right soil."""
    picture = ground(SOIL)
    picture.pixels[:, :100] = GREEN
    return picture


def run(
    image: Image, segments: Segments | None = None, detections: Detections | None = None, **params: object
) -> PlantEstimates:
    chosen = EstimateBandsParams.model_validate(params)
    return estimate(image, segments, detections, chosen, context())


def test_half_green_and_half_soil_is_five_plants_a_band() -> None:
    found = run(halves())

    assert found.processed_px.tolist() == [10_000] * 4
    assert found.floor_px.tolist() == [10_000] * 4
    assert found.count.tolist() == [5] * 4
    assert found.plant_area_px.tolist() == [2500] * 4
    assert found.band.tolist() == [1, 2, 3, 4]
    assert list(zip(found.y_start.tolist(), found.y_end.tolist(), strict=True)) == [
        (0, 100),
        (100, 200),
        (200, 300),
        (300, 400),
    ]
    assert set(found.method.tolist()) == {"band_based"}


@pytest.mark.parametrize(
    "colour", [SOIL, DARK_SOIL, GRAVEL, SAND, COLD_PLASTIC, (128, 128, 128), (0, 0, 0), (255, 255, 255)]
)
@pytest.mark.parametrize("noise", [0, 12])
def test_bare_ground_of_any_kind_has_no_plants(colour: tuple[int, int, int], noise: float) -> None:
    found = run(ground(colour, noise=noise))

    assert found.count.tolist() == [0] * 4
    assert found.floor_px.sum() == 400 * 200


def test_what_detections_cover_wholly_gives_bands_of_zeros() -> None:
    found = run(ground(GREEN), detections=detections_of([(0, 0, 200, 200), (0, 200, 200, 400)]))

    assert len(found) == 4
    assert found.plant_area_px.tolist() == [2500] * 4
    for column in (found.residual_px, found.processed_px, found.floor_px, found.count):
        assert column.tolist() == [0] * 4


def squares(n: int, side: float) -> np.ndarray:
    return np.array([(0, 0, side, side)] * n, np.float32)


def test_nine_detections_are_too_few_to_measure_a_plant_and_ten_are_enough() -> None:
    params = EstimateBandsParams()

    assert plant_area(squares(9, 20), params) == 2500
    assert plant_area(squares(10, 20), params) == 400


def test_an_outlier_does_not_make_plants_larger() -> None:
    boxes = np.concatenate([squares(12, 20), squares(1, 300)])

    assert plant_area(boxes, EstimateBandsParams()) == 400.0


def test_a_band_with_enough_detections_measures_its_own_plants() -> None:
    # Ten plants of 20 x 20 in the second band, on the soil half: they cover no green.
    boxes = [
        (105 + 20 * (i % 4), 110 + 25 * (i // 4), 125 + 20 * (i % 4), 130 + 25 * (i // 4)) for i in range(10)
    ]

    found = run(halves(), detections=detections_of(boxes))

    assert found.plant_area_px.tolist() == [2500, 400, 2500, 2500]
    assert found.count.tolist() == [5, 28, 5, 5]
    assert found.residual_px.tolist() == [20_000, 16_000, 20_000, 20_000]


def test_a_detection_covers_its_box_and_no_more() -> None:
    # A plant of 40 x 40 hides 1600 pixels of green.
    found = run(ground(GREEN), detections=detections_of([(80, 30, 120, 70)]))

    assert (found.residual_px[0], found.processed_px[0]) == (20_000 - 1600, 20_000 - 1600)


def test_each_segment_is_estimated_with_its_own_detections_only() -> None:
    segments = segments_of(("cajon", (0, 0, 100, 400)), ("cajon", (100, 0, 200, 400)))
    found = run(
        ground(GREEN),
        segments,
        detections_of([(0, 0, 100, 400), (20, 20, 60, 60)], segment=[101, 102]),
        bands=1,
    )

    assert found.segment.tolist() == [101, 102]
    assert found.residual_px.tolist() == [0, 40_000]


def test_a_segment_is_its_mask_and_its_bands_are_the_masks() -> None:
    triangle = Mask(np.tri(40, 40, dtype=np.bool_), x=50, y=100)
    segments = segments_of(("cajon", (40, 90, 100, 150)), masks=[triangle])

    found = run(Image(ground(GREEN).pixels, 0, 0), segments)

    assert found.residual_px.sum() == triangle.area
    assert found.y_start.tolist() == [100, 110, 120, 130]
    assert found.y_end.tolist() == [110, 120, 130, 140]


def test_the_last_band_takes_the_rows_that_are_left_over() -> None:
    found = run(ground(GREEN, height=103), bands=4)

    assert (found.y_end - found.y_start).tolist() == [25, 25, 25, 28]


def test_more_bands_than_rows_are_no_error() -> None:
    found = run(ground(GREEN, height=3, width=900), bands=8)

    assert found.residual_px.tolist() == [0] * 7 + [2700]


def test_only_segments_of_the_type_are_estimated() -> None:
    segments = segments_of(("cajon", (0, 0, 10, 10)), ("segmento", (0, 0, 20, 20)))

    assert set(run(ground(GREEN), segments, segment_type="segmento").segment.tolist()) == {102}
    assert len(run(ground(GREEN), segments, segment_type="plug")) == 0


def test_no_segments_are_an_empty_estimate() -> None:
    assert len(run(ground(GREEN), Segments.none())) == 0


def test_a_part_of_a_picture_knows_where_it_lies() -> None:
    part = Image(halves().pixels, 1000, 2000)
    segments = segments_of(("cajon", (1000, 2000, 1100, 2400)))

    found = run(part, segments)

    assert found.y_start.tolist() == [2000, 2100, 2200, 2300]
    assert found.processed_px.tolist() == [10_000] * 4


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_vegetation_and_floor_are_what_is_left_over(seed: int, bands: int) -> None:
    rng = np.random.default_rng(seed)
    image = Image(rng.integers(0, 256, (int(rng.integers(1, 60)), int(rng.integers(1, 60)), 3), np.uint8))
    corner = rng.uniform(-10, 60, (5, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 30, (5, 2))], axis=1)

    found = run(image, detections=detections_of(boxes.tolist()), bands=bands)

    assert (found.processed_px + found.floor_px == found.residual_px).all()
    assert found.residual_px.sum() <= image.width * image.height
    assert (found.processed_px >= 0).all()


def test_single_green_pixels_are_no_plants() -> None:
    picture = ground(SOIL)
    picture.pixels[::5, ::5] = GREEN

    assert not vegetation(picture.pixels).any()


@pytest.mark.parametrize(
    "leaf", [(34, 139, 34), (150, 180, 60), (70, 90, 60), (130, 153, 140), (128, 128, 0)]
)
def test_leaves_of_many_greens_are_vegetation(leaf: tuple[int, int, int]) -> None:
    assert vegetation(ground(leaf).pixels).all()


def test_the_deadline_is_looked_at_between_segments() -> None:
    segments = segments_of(("cajon", (0, 0, 10, 10)), ("cajon", (0, 0, 20, 20)))

    with pytest.raises(DeadlineExceeded):
        estimate(ground(GREEN), segments, None, EstimateBandsParams(), context(deadline=countdown(1)))


def test_a_segment_type_needs_segments_that_can_have_it() -> None:
    params = EstimateBandsParams(segment_type="cajonn")

    assert params.needs() == {Segments}
    ((parameter, message),) = params.problems(scope(segment_labels=["cajon"]))
    assert parameter == "segment_type"
    assert "Did you mean 'cajon'?" in message
