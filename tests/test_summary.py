"""From artifacts to the result: ids become positions, and only what is there is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from consumer.summary import (
    artifacts_of,
    classifications_of,
    detections_of,
    estimations_of,
    segments_of,
    warnings_of,
)
from contracts.geometry import Box
from contracts.result import Classification, StoredArtifact
from pipeline_steps.artifact import Artifact, Artifacts
from pipeline_steps.artifacts import (
    Classifications,
    Detections,
    Image,
    Mask,
    PlantEstimates,
    SegmentCounts,
    Segments,
    Sizes,
    Species,
    Totals,
    Upload,
    Uploads,
)
from pipeline_steps.findings.tally import tally


def ids(*some: int) -> Any:
    return np.array(some, np.int64)


def segments(*some: int, mask: Mask | None = None) -> Segments:
    n = len(some)
    xyxy = np.array([[0, 0, 50.126, 40]] * n, np.float32).reshape(n, 4)
    scores = np.full(n, 0.98766, np.float32)
    return Segments(ids(*some), xyxy, scores, np.full(n, "bed"), np.full(n, 2000, np.float32), (mask,) * n)


def detections(*some: int, segment: tuple[int, ...] | None = None) -> Detections:
    n = len(some)
    xyxy = np.array([[i, 0, i + 1, 1] for i in range(n)], np.float32).reshape(n, 4)
    inside = ids(*(segment or (0,) * n))
    return Detections(ids(*some), xyxy, np.full(n, 0.5, np.float32), np.full(n, "plant"), inside)


def estimates(**columns: Any) -> PlantEstimates:
    n = len(columns["count"])
    default = {name: np.zeros(n, np.int64) for name in ("segment", "y_start", "y_end", "residual_px")}
    default |= {name: np.zeros(n, np.int64) for name in ("processed_px", "floor_px", "plant_area_px", "band")}
    return PlantEstimates(**{**default, "method": np.full(n, "band_based"), **columns})


def totals(detected: int, *, of: int | None = None) -> Totals:
    return Totals(
        detected,
        detected,
        0,
        0,
        coverage_percent=12.345678,
        mean_confidence=0.54321,
        of=detected if of is None else of,
    )


def numbers(*written: Artifact, succeeded: bool = True) -> dict[str, float]:
    found = estimations_of(Artifacts.of(*written), succeeded=succeeded)
    assert len({one.type for one in found}) == len(found)
    return {one.type: one.value for one in found}


class TestPositions:
    def test_nothing_written_gives_nothing(self) -> None:
        nothing = Artifacts()

        assert segments_of(nothing, 10, 10) == detections_of(nothing) == classifications_of(nothing) == ()
        assert artifacts_of(nothing) == ()
        assert estimations_of(nothing, succeeded=True) == ()

    def test_a_detection_names_its_segments_place_in_the_list(self) -> None:
        written = Artifacts.of(segments(70, 50), detections(9, 8, 7, segment=(50, 70, 0)))

        found = detections_of(written)

        assert [(one.index, one.segment) for one in found] == [(0, 1), (1, 0), (2, None)]
        assert [one.index for one in segments_of(written, 100, 100)] == [0, 1]

    def test_numbers_are_rounded_to_what_readers_keep(self) -> None:
        [segment] = segments_of(Artifacts.of(segments(1)), 100, 100)

        assert segment.confidence == 0.9877
        assert segment.box == Box(x1=0, y1=0, x2=50.13, y2=40)
        assert (segment.area_px, segment.mask) == (2000, None)

    def test_a_mask_is_as_large_as_the_picture(self) -> None:
        mask = Mask(np.ones((3, 4), np.bool_), x=5, y=6)

        [segment] = segments_of(Artifacts.of(segments(1, mask=mask)), width=20, height=10)

        assert segment.mask is not None
        assert segment.mask.size == (10, 20)
        assert coco.area({"size": [10, 20], "counts": segment.mask.counts.encode()}) == 12

    def test_stored_files_are_told_in_the_order_they_were_written(self) -> None:
        files = (Upload("original", "gs://b/o", 40, 30), Upload("processed", "gs://b/p", 4, 3))

        assert artifacts_of(Artifacts.of(Uploads(files))) == (
            StoredArtifact(kind="original", url="gs://b/o", width=40, height=30),
            StoredArtifact(kind="processed", url="gs://b/p", width=4, height=3),
        )


class TestClassifications:
    def test_what_is_said_names_its_subject_by_place(self) -> None:
        said = Classifications(
            ids(8, 0, 0), ids(0, 50, 0), np.array(["ficus", "wet", "noon"]), np.full(3, 0.61111, np.float32)
        )

        found = classifications_of(Artifacts.of(segments(70, 50), detections(9, 8), said))

        assert found == (
            Classification(detection=1, label="ficus", confidence=0.6111),
            Classification(segment=1, label="wet", confidence=0.6111),
            Classification(label="noon", confidence=0.6111),
        )

    def test_a_size_stands_beside_what_is_said_of_the_same_detection(self) -> None:
        said = Classifications(ids(8, 9), ids(0, 0), np.array(["a", "b"]), np.ones(2, np.float32))
        sizes = Sizes(ids(9), np.array([4], np.int8))

        found = classifications_of(Artifacts.of(detections(9, 8), said, sizes))

        assert [(one.detection, one.label, one.size) for one in found] == [(1, "a", None), (0, "b", "XL")]

    def test_species_are_said_of_seen_and_of_estimated_plants(self) -> None:
        species = Species(ids(9, 8, 0), np.array(["ficus", "aloe", "ficus"]))
        sizes = Sizes(ids(8, 9), np.array([1, 2], np.int8))

        found = classifications_of(Artifacts.of(detections(9, 8), species, sizes))

        assert [(one.detection, one.label, one.confidence, one.size) for one in found] == [
            (0, "ficus", 1.0, "M"),
            (1, "aloe", 1.0, "S"),
            (None, "ficus", 1.0, None),
        ]

    def test_sizes_alone_are_told_too(self) -> None:
        sizes = Sizes(ids(8, 7, 9), np.array([1, 2, 3], np.int8))

        found = classifications_of(Artifacts.of(detections(9, 8, 7), sizes))

        assert [(one.detection, one.label, one.size) for one in found] == [
            (0, "plant", "L"),
            (1, "plant", "S"),
            (2, "plant", "M"),
        ]


class TestNumbers:
    def test_what_was_detected_is_counted_and_booked(self) -> None:
        assert numbers(detections(1, 2, 3)) == {"total_count": 3, "COUNT": 3}
        assert numbers(detections()) == {"total_count": 0, "COUNT": 0}

    def test_stock_is_not_booked_from_a_partial_run(self) -> None:
        assert numbers(detections(1, 2), succeeded=False) == {"total_count": 2}

    def test_nor_from_estimates_alone(self) -> None:
        assert numbers(estimates(count=ids(5), band=ids(1))) == {
            "total_count": 5,
            "estimated_count": 5,
            "band_based_1": 5,
        }

    def test_nor_where_nothing_was_looked_for(self) -> None:
        assert numbers(segments(1, 2)) == {}

    def test_estimated_plants_are_counted_with_those_seen(self) -> None:
        bands = estimates(count=ids(5, 7, 1), band=ids(1, 2, 1), segment=ids(1, 1, 2))

        assert numbers(detections(1, 2), bands) == {
            "total_count": 15,
            "COUNT": 15,
            "estimated_count": 13,
            "band_based_1": 6,
            "band_based_2": 7,
        }

    def test_an_estimate_without_bands_is_told_under_its_methods_name(self) -> None:
        density = estimates(count=ids(5, 7), segment=ids(1, 2), method=np.full(2, "density_based"))

        assert numbers(density) == {"total_count": 12, "estimated_count": 12, "density_based": 12}

    def test_every_size_is_told_also_when_there_is_none(self) -> None:
        sizes = Sizes(ids(1, 2, 3), np.array([2, 2, 4], np.int8))

        assert numbers(sizes) == {"size_S": 0, "size_M": 2, "size_L": 0, "size_XL": 1}

    def test_species_are_counted_by_name(self) -> None:
        species = Species(ids(1, 2, 0), np.array(["ficus", "aloe", "ficus"]))

        assert numbers(species) == {"species_ficus": 2, "species_aloe": 1}

    def test_a_segments_count_is_told_by_its_place_and_minus_one_is_outside_all(self) -> None:
        counts = SegmentCounts(ids(50, 70, 0), ids(4, 0, 9))

        assert numbers(segments(70, 50), counts) == {
            "count_segment_1": 4,
            "count_segment_0": 0,
            "count_segment_-1": 9,
        }

    def test_outside_all_segments_says_nothing_where_none_were_looked_for(self) -> None:
        assert numbers(SegmentCounts(ids(0), ids(9))) == {}

    def test_it_is_told_in_how_many_segments_something_was_found(self) -> None:
        image = Image(np.zeros((100, 100, 3), np.uint8))
        found, seen = segments(70, 50), detections(1, 2, 3, segment=(50, 50, 0))

        told = numbers(found, seen, *tally(image, seen, found, None, of=3))

        assert told["segments_with_detections"] == 1
        assert (told["count_segment_1"], told["count_segment_-1"]) == (2, 1)
        assert "segments_with_detections" not in numbers(seen, *tally(image, seen, None, None, of=3))

    def test_the_totals_of_the_present_detections_are_told(self) -> None:
        found = estimations_of(Artifacts.of(detections(1, 2), totals(2)), succeeded=True)

        by_type = {one.type: one for one in found}
        assert (by_type["coverage_percent"].value, by_type["coverage_percent"].unit) == (12.3457, "percent")
        assert (by_type["confidence_avg"].value, by_type["confidence_avg"].unit) == (0.5432, None)
        assert by_type["COUNT"].unit == "units"

    def test_those_of_replaced_detections_are_not(self) -> None:
        assert numbers(detections(1, 2, 3), totals(2)) == {"total_count": 3, "COUNT": 3}

    def test_detections_that_the_counting_left_out_do_not_count(self) -> None:
        found = numbers(detections(1, 2, 3), totals(2, of=3))

        assert (found["total_count"], found["COUNT"]) == (2, 2)

    @pytest.mark.parametrize("length", [91, 92, 93, 255])
    def test_a_name_fits_its_column(self, length: int) -> None:
        [name] = numbers(Species(ids(1), np.array(["x" * length])))

        assert name == ("species_" + "x" * length)[:100]


def test_what_went_stale_is_a_warning() -> None:
    later = Artifacts.of(detections(1, 2)) | Artifacts.of(Sizes(ids(1, 2), np.array([1, 2], np.int8)))
    replaced = later | Artifacts.of(detections(3))

    assert warnings_of(later, ["a"]) == ("a",)
    assert warnings_of(replaced, ["a"]) == (
        "a",
        "2 stale rows were dropped: what they spoke of was replaced",
    )
