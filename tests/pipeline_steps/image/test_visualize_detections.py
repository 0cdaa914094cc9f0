"""What is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps.artifacts import Detections, Image, Mask, Segments, Size, Sizes
from pipeline_steps.image.visualize_detections import (
    SEGMENT_COLOURS,
    SIZE_COLOURS,
    VisualizeParams,
    visualize,
)
from tests.pipeline_steps.fakes import detections_of, segments_of

GROUND = 90


def ground(height: int = 400, width: int = 600, x: int = 0, y: int = 0) -> Image:
    return Image(np.full((height, width, 3), GROUND, np.uint8), x, y)


def drawn(
    image: Image,
    detections: Detections | None = None,
    sizes: Sizes | None = None,
    segments: Segments | None = None,
    **params: bool,
) -> np.ndarray:
    chosen = VisualizeParams.model_validate({"caption": False, **params})
    return visualize(image, detections, sizes, segments, None, chosen).pixels


def has(pixels: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((pixels == colour).all(axis=-1).any())


@pytest.mark.parametrize("size", list(Size))
def test_boxes_have_the_colour_of_their_size(size: Size) -> None:
    sizes = Sizes(np.array([1]), np.array([size], np.int8))

    pixels = drawn(ground(), detections_of([(100, 100, 200, 180)]), sizes)

    assert tuple(pixels[100, 150]) == SIZE_COLOURS[size]
    assert tuple(pixels[179, 150]) == SIZE_COLOURS[size]
    assert tuple(pixels[140, 100]) == SIZE_COLOURS[size]
    assert tuple(pixels[140, 199]) == SIZE_COLOURS[size]


def test_the_colours_are_blue_green_orange_and_red() -> None:
    assert dict(SIZE_COLOURS) == {
        Size.S: (0, 0, 255),
        Size.M: (0, 255, 0),
        Size.L: (255, 165, 0),
        Size.XL: (255, 0, 0),
    }


def test_a_size_belongs_to_its_detection_whatever_the_order() -> None:
    found = detections_of([(20, 20, 80, 80), (120, 20, 180, 80)])
    sizes = Sizes(np.array([2, 1]), np.array([Size.XL, Size.S], np.int8))

    pixels = drawn(ground(), found, sizes)

    assert tuple(pixels[20, 50]) == SIZE_COLOURS[Size.S]
    assert tuple(pixels[20, 150]) == SIZE_COLOURS[Size.XL]


def test_detections_without_sizes_are_green() -> None:
    assert tuple(drawn(ground(), detections_of([(100, 100, 200, 180)]))[100, 150]) == (0, 255, 0)


def test_boxes_are_drawn_where_this_part_of_the_picture_lies() -> None:
    pixels = drawn(ground(x=1000, y=2000), detections_of([(1100, 2100, 1200, 2180)]))

    assert tuple(pixels[100, 150]) == (0, 255, 0)


def test_the_picture_itself_is_not_drawn_on() -> None:
    picture = ground()

    pixels = drawn(
        picture, detections_of([(100, 100, 200, 180)]), None, segments_of(("cajon", (0, 0, 99, 99)))
    )

    assert (picture.pixels == GROUND).all()
    assert pixels.shape == picture.pixels.shape
    assert pixels.dtype == np.uint8


def test_a_mask_is_outlined_along_its_shape() -> None:
    disc = np.hypot(*(np.indices((200, 200)) - 100)) < 90
    mask = Mask(disc, x=200, y=100)
    segments = segments_of(("cajon", (200, 100, 400, 300)), masks=[mask])

    pixels = drawn(ground(), None, None, segments)

    white = SEGMENT_COLOURS[0]
    assert tuple(pixels[112, 300]) == white  # the top of the disc
    assert tuple(pixels[101, 201]) == (GROUND,) * 3  # the corner of its box
    assert tuple(pixels[200, 300]) == (GROUND,) * 3  # its middle


def test_a_mask_that_leaves_the_picture_is_outlined_inside_it() -> None:
    mask = Mask(np.ones((100, 100), np.bool_), x=-50, y=-50)
    away = Mask(np.ones((10, 10), np.bool_), x=5000, y=5000)
    boxes = (("cajon", (0.0, 0.0, 50.0, 50.0)), ("cajon", (0.0, 0.0, 1.0, 1.0)))

    pixels = drawn(ground(), None, None, segments_of(*boxes, masks=[mask, away]))

    assert tuple(pixels[10, 49]) == SEGMENT_COLOURS[0]


def test_segments_without_a_mask_are_framed_and_labels_have_colours_of_their_own() -> None:
    segments = segments_of(("cajon", (20, 20, 180, 180)), ("segmento", (220, 20, 380, 180)))

    pixels = drawn(ground(), None, None, segments)

    assert tuple(pixels[20, 100]) == SEGMENT_COLOURS[0]
    assert tuple(pixels[20, 300]) == SEGMENT_COLOURS[1]
    assert not set(SEGMENT_COLOURS) & set(SIZE_COLOURS.values())


def test_the_caption_is_there_even_with_nothing_found() -> None:
    plate = visualize(ground(), None, None, None, None, VisualizeParams()).pixels[:60, :200]

    assert has(plate, (255, 255, 255))
    assert (drawn(ground()) == GROUND).all()


def test_the_caption_says_how_many() -> None:
    def caption(n: int) -> np.ndarray:
        found = detections_of([(300, 300, 310, 310)] * n)
        return visualize(ground(), found, None, None, None, VisualizeParams()).pixels[:100]

    assert not np.array_equal(caption(1), caption(2))


def test_the_caption_goes_where_it_hides_no_plant() -> None:
    found = detections_of([(20, 20, 60, 60), (520, 20, 560, 60)])

    pixels = visualize(ground(), found, None, None, None, VisualizeParams()).pixels

    assert not has(pixels[:100], (255, 255, 255))
    assert has(pixels[-60:, :200], (255, 255, 255))


def test_lines_grow_with_the_picture() -> None:
    def thickness(scale: int) -> int:
        box = detections_of([(100 * scale, 100 * scale, 300 * scale, 300 * scale)])
        row = drawn(ground(400 * scale, 600 * scale), box)[200 * scale]
        return int((row == (0, 255, 0)).all(axis=-1).sum())

    assert thickness(5) >= 3 * thickness(1)


def test_labels_are_written_if_asked_for() -> None:
    found = detections_of([(100, 100, 200, 180)])

    assert not np.array_equal(drawn(ground(), found, labels=True), drawn(ground(), found))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.booleans())
def test_a_picture_of_any_size_can_be_drawn_on(width: int, height: int, n: int, labels: bool) -> None:
    found = detections_of([(i * 7 - 5, i * 5 - 5, i * 9, i * 9 - 4) for i in range(n)])
    sizes = Sizes(found.id, np.full(n, Size.L, np.int8))
    segments = segments_of(("cajon", (-5, -5, 50, 50)))

    overlay = visualize(ground(height, width), found, sizes, segments, None, VisualizeParams(labels=labels))

    assert overlay.pixels.shape == (height, width, 3)
