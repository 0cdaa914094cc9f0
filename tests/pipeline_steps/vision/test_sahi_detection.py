"""Detection in tiles."""

from __future__ import annotations

import asyncio
import io
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as Pillow

from pipeline_steps.artifacts import Detections, Image, Segments
from pipeline_steps.context import Deadline
from pipeline_steps.errors import DeadlineExceeded, InvalidInput
from pipeline_steps.image.tiff_windows import open_windows
from pipeline_steps.vision.sahi_detection import TILES_AT_ONCE, SahiDetectionParams, detect_in_tiles
from tests.pipeline_steps.fakes import SeeingModels, context, countdown, painted, segments_of

SMALL_TILES = {"sahi_slice_width": 100, "sahi_slice_height": 100}


def run(
    image: Image,
    segments: Segments | None = None,
    models: SeeingModels | None = None,
    deadline: Deadline | None = None,
    **params: object,
) -> Detections:
    chosen = SahiDetectionParams.model_validate(params)
    return asyncio.run(detect_in_tiles(image, segments, None, chosen, context(models, deadline=deadline)))


@pytest.mark.parametrize(("width", "height", "count"), [(1024, 1024, 9), (1629, 2244, 24), (4000, 3000, 88)])
def test_a_picture_is_cut_as_sahi_cuts_it(width: int, height: int, count: int) -> None:
    models = SeeingModels()
    models.calls.clear()

    run(Image(np.zeros((height, width, 3), np.uint8)), models=models)

    assert sum(images for _, images in models.calls) == count
    assert len(models.calls) == -(-count // TILES_AT_ONCE)


def test_a_plant_on_the_seam_of_tiles_is_found_once_and_whole() -> None:
    # Tiles of 100 with a quarter of overlap start at 0, 75 and 100: this one is cut by two of them.
    plant = ("plant", (60, 40, 90, 60), 0.9)

    found = run(painted(200, 100, plant), **SMALL_TILES)

    assert found.xyxy.tolist() == [[60, 40, 90, 60]]


def test_plants_all_over_a_picture_are_each_found_once() -> None:
    plants = [("plant", (x, y, x + 12, y + 12), 0.6) for x in range(3, 480, 25) for y in range(5, 280, 25)]

    found = run(painted(500, 300, *plants), **SMALL_TILES)

    assert sorted(map(tuple, found.xyxy.tolist())) == sorted(box for _, box, _ in plants)


def test_boxes_are_full_image_pixels_inside_segments_too() -> None:
    picture = painted(400, 300, ("plant", (310, 210, 330, 230), 0.9), x=1000, y=2000)
    segments = segments_of(("cajon", (1205.4, 2105.4, 1400, 2300)))

    found = run(picture, segments, segment_type="cajon", **SMALL_TILES)

    assert found.xyxy.tolist() == [[1310, 2210, 1330, 2230]]
    assert found.segment.tolist() == [101]


def test_tiles_of_all_segments_share_a_call() -> None:
    models = SeeingModels()
    segments = segments_of(("cajon", (0, 0, 100, 100)), ("cajon", (100, 0, 300, 100)))

    run(painted(300, 100), segments, models, segment_type="cajon", **SMALL_TILES)

    assert models.calls == [("plants", 1 + 3)]


def test_segments_are_merged_each_by_itself() -> None:
    plant = ("plant", (90, 10, 120, 40), 0.9)
    segments = segments_of(("cajon", (0, 0, 110, 100)), ("cajon", (100, 0, 200, 100)))

    found = run(painted(200, 100, plant), segments, segment_type="cajon")

    assert found.segment.tolist() == [101, 102]


def test_a_pass_over_the_whole_picture_is_one_more_look_where_there_are_several_tiles() -> None:
    models = SeeingModels()

    found = run(
        painted(200, 100, ("plant", (10, 20, 190, 80), 0.9)),
        models=models,
        perform_standard_pred=True,
        **SMALL_TILES,
    )
    run(painted(90, 90), models=models, perform_standard_pred=True, **SMALL_TILES)

    assert models.calls == [("plants", 3 + 1), ("plants", 1)]
    assert [10, 20, 190, 80] in found.xyxy.tolist()


def test_without_regard_to_classes_one_thing_is_found_once() -> None:
    both = [("plant", (10, 10, 40, 40), 0.9), ("weed", (12, 12, 38, 38), 0.8)]

    assert len(run(painted(100, 100, *both))) == 2
    assert run(painted(100, 100, *both), class_agnostic=True).label.tolist() == ["plant"]


def test_the_deadline_is_looked_at_between_calls() -> None:
    models = SeeingModels()

    with pytest.raises(DeadlineExceeded):
        run(Image(np.zeros((3000, 4000, 3), np.uint8)), models=models, deadline=countdown(1))

    assert models.calls == [("plants", TILES_AT_ONCE)]


def test_a_picture_of_too_many_tiles_is_refused_with_what_to_change() -> None:
    picture = Image(np.zeros((2000, 2000, 3), np.uint8))

    with pytest.raises(InvalidInput, match="sahi_slice_width"):
        run(picture, sahi_slice_width=64, sahi_slice_height=64, sahi_overlap_ratio=0.9)


def test_no_segments_mean_no_detections() -> None:
    assert len(run(painted(100, 100), Segments.none(), segment_type="cajon")) == 0


def test_sahis_own_spelling_is_understood() -> None:
    params = SahiDetectionParams.model_validate({"postprocess": "GREEDYNMM", "match_metric": "IOS"})

    assert (params.postprocess, params.match_metric) == ("greedynmm", "ios")


def test_the_defaults_are_sahis() -> None:
    params = SahiDetectionParams()

    assert (params.sahi_slice_height, params.sahi_slice_width, params.sahi_overlap_ratio) == (512, 512, 0.25)
    assert (params.postprocess, params.match_metric, params.match_threshold) == ("greedynmm", "ios", 0.5)


def test_a_large_tiff_that_is_not_decoded_is_looked_at_as_a_decoded_one() -> None:
    plants = [("plant", (x, y, x + 12, y + 12), 0.6) for x in range(3, 480, 25) for y in range(5, 280, 25)]
    pixels, file = painted(500, 300, *plants).pixels, io.BytesIO()
    Pillow.fromarray(pixels).save(file, "TIFF", compression="tiff_lzw", tiffinfo={278: 32})
    windows = open_windows(file.getvalue(), max_pixels=500 * 300, name="x", least_pixels=1)
    assert windows is not None

    found = run(Image(windows.whole), **SMALL_TILES)

    assert found == run(Image(pixels), **SMALL_TILES)
    assert len(found) == len(plants)


def test_the_event_loop_does_not_decode() -> None:
    loops: list[bool] = []

    @dataclass
    class Blank:
        shape: tuple[int, int, int]

        def __getitem__(self, part: tuple[slice, slice]) -> Blank:
            height, width = (one.stop - one.start for one in part)
            return Blank((height, width, 3))

        def read(self) -> npt.NDArray[np.uint8]:
            loops.append(threading.current_thread() is threading.main_thread())
            return np.zeros(self.shape, np.uint8)

    run(Image(Blank((400, 500, 3))), **SMALL_TILES)

    assert loops
    assert not any(loops)
