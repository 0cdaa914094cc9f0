"""Which segments are kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from consumer.pipeline.parse import parse
from contracts.builders import pipeline, step
from pipeline_steps.artifacts import Crops, Image, Segments
from pipeline_steps.findings.segment_filter import SegmentFilterParams, filter_segments
from pipeline_steps.loading import load_steps
from pipeline_steps.registry import settings_read_by
from tests.pipeline_steps.fakes import context, segments_of

PICTURE = Image(np.zeros((200, 300, 3), np.uint8))

TRAYS = segments_of(
    ("cajon", (0, 0, 10, 10)),
    ("segmento", (0, 0, 40, 40)),
    ("cajon", (0, 0, 30, 30)),
    ("claro-cajon", (0, 0, 50, 50)),
    ("segmento", (0, 0, 20, 20)),
)


def run(segments: Segments = TRAYS, image: Image = PICTURE, **params: object) -> tuple[Segments, Crops]:
    return filter_segments(image, segments, SegmentFilterParams.model_validate(params), context())


def kept(**params: object) -> list[int]:
    return run(**params)[0].id.tolist()


def test_without_a_type_every_segment_stays() -> None:
    assert kept() == [101, 102, 103, 104, 105]
    assert kept(segment_filter_classes=["cajon"]) == [101, 102, 103, 104, 105]


def test_the_largest_of_each_listed_class_stays_and_all_others() -> None:
    chosen = kept(segment_filter_type="largest_by_class", segment_filter_classes=["segmento", "cajon"])

    assert chosen == [102, 103, 104]


def test_without_classes_nothing_is_filtered() -> None:
    assert kept(segment_filter_type="largest_by_class") == [101, 102, 103, 104, 105]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"segment_filter_type": "largest_by_class"},
            "settings.segment_filter_type: nothing is filtered: `segment_filter_classes` names no class",
        ),
        (
            {"segment_filter_type": "largest_by_class", "segment_filter_classes": []},
            "settings.segment_filter_type: nothing is filtered: `segment_filter_classes` names no class",
        ),
        (
            {"segment_filter_classes": "cajon"},
            "settings.segment_filter_classes: nothing is filtered: `segment_filter_type` is not set",
        ),
        ({"segment_filter_type": "largest_by_class", "segment_filter_classes": "cajon"}, None),
        ({"segment_filter_type": "largest_claro"}, None),
        ({}, None),
    ],
)
def test_half_a_filter_filters_nothing_and_the_result_says_so(
    settings: dict[str, JsonValue], said: str | None
) -> None:
    twice = pipeline(step("segmentation"), step("segment_filter"), step("segment_filter"))

    parsed = parse(twice, load_steps(plugins=False), settings=settings)

    assert parsed.warnings == (() if said is None else (said,))


def test_half_a_filter_among_the_kwargs_is_named_by_its_path() -> None:
    half = step("segment_filter", segment_filter_type="largest_by_class")

    parsed = parse(pipeline(step("segmentation"), half), load_steps(plugins=False))

    (said,) = parsed.warnings
    assert said.startswith("steps.1.kwargs.segment_filter_type: nothing is filtered")


def test_a_class_that_no_segment_has_changes_nothing() -> None:
    chosen = kept(segment_filter_type="largest_by_class", segment_filter_classes=["plug"])

    assert chosen == [101, 102, 103, 104, 105]


def test_the_largest_claro_is_one_of_two_classes_together() -> None:
    assert kept(segment_filter_type="largest_claro") == [101, 103, 104]


def test_of_equally_large_segments_the_first_stays() -> None:
    twins = segments_of(("cajon", (0, 0, 10, 10)), ("cajon", (20, 0, 30, 10)))

    chosen, _ = run(twins, segment_filter_type="largest_by_class", segment_filter_classes="cajon")

    assert chosen.id.tolist() == [101]


def test_each_kept_segment_is_cut_out_rounded_and_clamped() -> None:
    segments = segments_of(("cajon", (10.6, 20.4, 50.5, 60.7)), ("cajon", (280, 190, 310, 210)))

    chosen, crops = run(segments)

    assert crops.segment.tolist() == chosen.id.tolist()
    assert crops.label.tolist() == ["cajon", "cajon"]
    assert [(crop.x, crop.y, crop.width, crop.height) for crop in crops.image] == [
        (11, 20, 39, 41),
        (280, 190, 20, 10),
    ]
    assert crops.id.tolist() == context().ids(2).tolist()


def test_no_segments_give_no_crops() -> None:
    chosen, crops = run(Segments.none(), segment_filter_type="largest_claro")

    assert (len(chosen), len(crops)) == (0, 0)


def test_an_unknown_type_is_refused_and_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"largest_by_class.*largest_claro"):
        SegmentFilterParams.model_validate({"segment_filter_type": "largest"})


def test_both_parameters_are_settings() -> None:
    assert settings_read_by(SegmentFilterParams) == {
        "segment_filter_type": "segment_filter_type",
        "segment_filter_classes": "segment_filter_classes",
    }


labels = st.lists(st.tuples(st.sampled_from(["cajon", "segmento", "plug"]), st.integers(1, 5)), max_size=12)


@given(labels, st.sets(st.sampled_from(["cajon", "segmento", "plug"])))
def test_order_stays_and_exactly_one_of_each_listed_class(
    things: list[tuple[str, int]], listed: set[str]
) -> None:
    segments = segments_of(*((label, (0, 0, side, side)) for label, side in things))

    chosen, _ = run(segments, segment_filter_type="largest_by_class", segment_filter_classes=sorted(listed))

    assert chosen.id.tolist() == sorted(chosen.id.tolist())
    for label in {label for label, _ in things}:
        area = [side * side for one, side in things if one == label]
        left = chosen.area_px[chosen.label == label].tolist()
        assert left == ([max(area)] if label in listed else area)
