"""Properties of the artifact algebra, whatever pipeline is built from chains, groups, chords and maps."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.builders import chain, chord, group, map_, step
from contracts.pipeline import ElementDefinition
from pipeline_steps.artifact import NOTHING, Artifact, Artifacts, Cumulative, Ids, Mergeable, Rows, living
from pipeline_steps.artifacts import (
    Classifications,
    Crops,
    Detections,
    Image,
    Overlay,
    Segments,
    Sizes,
    Species,
    Upload,
    Uploads,
)
from pipeline_steps.context import MAX_MAP_ITEMS, Deadline, JobInfo, StepContext
from tests.pipeline.toys import PICTURE, Ran, Toys, boxes

slowly = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

START = (step("regions", n=3), step("find", n=3), step("sizes"))
"""So that whatever a random pipeline reads is there."""

MERGEABLE = st.one_of(
    st.builds(
        lambda n, label: step("find", n=n, label=label), st.integers(0, 4), st.sampled_from(["a", "bb"])
    ),
    st.builds(lambda keep: step("thin", keep=keep), st.integers(0, 3)),
    st.builds(lambda name: step("upload", name=f"{name}-{{item}}"), st.sampled_from("xyz")),
    st.sampled_from([step("sizes"), step("classify"), step("fail", on_error="skip")]),
)


def within(depth: int, maps: int) -> st.SearchStrategy[ElementDefinition]:
    """Return elements that may stand anywhere, also inside groups and maps."""
    if depth == 0:
        return MERGEABLE
    inner = within(depth - 1, maps)
    kinds = [
        MERGEABLE,
        st.lists(inner, max_size=3).map(lambda elements: chain(*elements)),
        st.lists(inner, max_size=3).map(lambda elements: group(*elements)),
        st.lists(inner, max_size=2).map(lambda elements: chord(group(*elements), step("classify"))),
        st.lists(inner, max_size=2).map(lambda elements: group(*elements, step("fail"), on_error="skip")),
    ]
    if maps:
        body = within(depth - 1, maps - 1)
        kinds.append(st.builds(map_, st.sampled_from(["segments", "detections"]), body))
    return st.one_of(kinds)


ELEMENTS = st.lists(
    st.one_of(
        within(2, maps=2),
        st.builds(lambda n: step("regions", n=n), st.integers(0, 3)),
        st.builds(lambda keep: step("keep", keep=keep), st.integers(0, 2)),
    ),
    min_size=1,
    max_size=6,
)


def ran(*elements: ElementDefinition) -> Ran:
    result = Toys().execute(*START, *elements)
    assert result.error is None
    return result


def ids(written: Artifacts, kind: type[Segments] | type[Detections]) -> set[int]:
    things = written.get(kind)
    return {NOTHING} if things is None else {NOTHING, *things.id.tolist()}


def sized_boxes(written: Artifacts) -> Counter[tuple[Any, ...]]:
    """Return each detection as what it is, without its identity: place, label, and the size it has."""
    found, sizes = written.get(Detections), written.get(Sizes)
    assert found is not None
    assert sizes is not None
    size_of = dict(zip(sizes.detection.tolist(), sizes.size.tolist(), strict=True))
    return Counter(
        (*box, label, size_of.get(identity))
        for identity, box, label in zip(
            found.id.tolist(), found.xyxy.tolist(), found.label.tolist(), strict=True
        )
    )


def content(written: Artifacts) -> dict[str, Any]:
    """Return what was written in values that can be compared: pictures by the place they were cut from."""
    found: dict[str, Any] = {type(artifact).__name__: artifact for artifact in written}
    crops = written.get(Crops)
    if crops is not None:
        places = [(image.x, image.y, image.width, image.height) for image in crops.image]
        found["Crops"] = (crops.id.tolist(), crops.segment.tolist(), crops.label.tolist(), places)
    return found


@slowly
@given(ELEMENTS)
def test_nothing_ever_speaks_of_what_is_not_there(elements: list[ElementDefinition]) -> None:
    written = ran(*elements).written

    segments, detections = ids(written, Segments), ids(written, Detections)
    for kind, column, alive in (
        (Detections, "segment", segments),
        (Crops, "segment", segments),
        (Sizes, "detection", detections),
        (Classifications, "detection", detections),
        (Classifications, "segment", segments),
    ):
        rows = written.get(kind)
        assert rows is None or set(getattr(rows, column).tolist()) <= alive, f"{kind.__name__}.{column}"


@slowly
@given(ELEMENTS)
def test_a_size_is_always_that_of_the_box_it_speaks_of(elements: list[ElementDefinition]) -> None:
    written = ran(*elements).written

    found, sizes = written.get(Detections), written.get(Sizes)
    assert found is not None
    assert sizes is not None
    width_of = dict(zip(found.id.tolist(), (found.xyxy[:, 2] - found.xyxy[:, 0]).tolist(), strict=True))
    assert [width_of[one] for one in sizes.detection.tolist()] == sizes.size.tolist()


@slowly
@given(st.lists(within(1, maps=1), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_branches_changes_no_size(
    branches: list[ElementDefinition], shuffle: random.Random
) -> None:
    other_order = branches.copy()
    shuffle.shuffle(other_order)

    one, other = (ran(group(*order), step("sizes")).written for order in (branches, other_order))

    assert sized_boxes(one) == sized_boxes(other)


@slowly
@given(ELEMENTS, st.data())
def test_brackets_around_what_comes_one_after_the_other_change_nothing(
    elements: list[ElementDefinition], data: st.DataObject
) -> None:
    def bracketed(part: Sequence[ElementDefinition]) -> ElementDefinition:
        if len(part) == 1:
            return part[0]
        cut = data.draw(st.integers(1, len(part) - 1))
        return chain(bracketed(part[:cut]), bracketed(part[cut:]))

    flat, nested = ran(*elements), Toys().execute(bracketed([*START, *elements]))

    assert content(flat.written) == content(nested.written)


@slowly
@given(st.permutations(range(5)))
def test_branches_are_joined_in_declared_order_in_whatever_order_they_finish(finish: list[int]) -> None:
    before = dict(zip(finish[1:], finish, strict=False))
    branches = [
        step("gate", wait_for=f"{before[i]} is done" if i in before else "", then_open=f"{i} is done")
        for i in range(5)
    ]

    done = Toys().execute(group(*branches))

    found = done.written.get(Detections)
    assert found is not None
    assert [report.path for report in done.run.steps] == [f"steps.0.steps.{i}" for i in finish]
    assert found.id.tolist() == sorted(found.id.tolist())
    assert found.label.tolist() == [
        f"after {before[i]} is done" if i in before else "after nothing" for i in range(5)
    ]


@slowly
@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"name": st.sampled_from("abc"), "folder": st.sampled_from(["images", "originals"])}
        ),
        min_size=1,
        max_size=6,
    )
)
def test_a_call_gets_its_own_kwargs_and_the_defaults(kwargs: list[dict[str, str]]) -> None:
    calls = Toys().parse(*(step("upload", **own) for own in kwargs)).calls()

    assert [call.params.model_dump() for call in calls] == [
        {"name": "photo", "folder": "images", **own} for own in kwargs
    ]


PLACES = st.tuples(
    st.integers(0, 511),
    st.lists(st.integers(0, MAX_MAP_ITEMS - 1), max_size=2).map(tuple),
    st.integers(0, 3) | st.just(1_000),
)


def identities(place: tuple[int, tuple[int, ...], int]) -> Ids:
    node, items, n = place
    context = StepContext(
        JobInfo("acme", "s", "i"),
        None,
        None,
        Deadline(0.0),
        node=node,
        items=items,  # type: ignore[arg-type]
    )
    return context.ids(n)


@given(PLACES, PLACES)
def test_no_two_places_in_a_job_give_the_same_identity(
    one: tuple[int, tuple[int, ...], int], other: tuple[int, tuple[int, ...], int]
) -> None:
    mine, others = identities(one), identities(other)

    assert len(np.unique(mine)) == len(mine)
    assert (mine > NOTHING).all()
    if one[:2] != other[:2]:
        assert np.intersect1d(mine, others).size == 0
    else:
        assert identities(one).tolist() == mine.tolist()


def test_the_furthest_place_still_has_room_for_its_identities() -> None:
    assert int(identities((511, (MAX_MAP_ITEMS - 1, MAX_MAP_ITEMS - 1), 100_000))[-1]) < 2**63 - 1


DETECTIONS = st.lists(st.integers(1, 12), unique=True, max_size=6).map(
    lambda some: boxes(np.array(some, np.int64), PICTURE, "plant")
)


@given(st.lists(DETECTIONS, max_size=4), st.lists(DETECTIONS, max_size=4), st.lists(DETECTIONS, max_size=4))
def test_merging_in_parts_is_merging_at_once(a: list[Any], b: list[Any], c: list[Any]) -> None:
    merge = Detections.merge

    assert merge([*a, *b, *c]) == merge([merge(a), merge([*b, *c])]) == merge([merge([*a, *b]), merge(c)])


@given(st.lists(DETECTIONS, max_size=4))
def test_a_thing_in_several_parts_is_kept_where_it_first_appears(parts: list[Detections]) -> None:
    all_of_them = [identity for part in parts for identity in part.id.tolist()]

    assert Detections.merge(parts).id.tolist() == list(dict.fromkeys(all_of_them))


@given(DETECTIONS, st.data())
def test_rows_that_were_taken_are_the_rows_asked_for(found: Detections, data: st.DataObject) -> None:
    keep = data.draw(st.lists(st.booleans(), min_size=len(found), max_size=len(found)))
    kept = found.take(np.array(keep, np.bool_))
    turned = found.take(np.arange(len(found))[::-1])

    assert kept.id.tolist() == [one for one, wanted in zip(found.id.tolist(), keep, strict=True) if wanted]
    assert turned.take(np.arange(len(found))[::-1]) == found


def test_rows_need_columns_of_one_length() -> None:
    with pytest.raises(ValueError, match="Sizes needs columns of one length"):
        Sizes(np.array([1, 2]), np.array([1], np.int8))


def test_rows_are_equal_when_they_say_the_same_however_wide_their_text() -> None:
    ids_of_two = np.array([1, 2])
    wide = Species(ids_of_two, np.array(["ficus", "a much longer name"])).take(np.array([True, False]))

    assert wide == Species(np.array([1]), np.array(["ficus"]))
    assert wide != Species(np.array([2]), np.array(["ficus"]))
    assert wide != Sizes(np.array([1]), np.array([2], np.int8))


def test_two_plain_writes_cannot_be_merged() -> None:
    overlay = Artifacts.of(Overlay(PICTURE.pixels))

    with pytest.raises(TypeError, match="two branches wrote Overlay, which cannot be merged"):
        Artifacts.join([overlay, overlay])


def test_what_adds_up_adds_up_in_order_and_once() -> None:
    def uploads(*names: str) -> Artifacts:
        return Artifacts.of(Uploads(tuple(Upload("original", name, 1, 1) for name in names)))

    both = uploads("a", "b") | uploads("c", "a")

    assert [file.url for file in (both.get(Uploads) or Uploads()).files] == ["a", "b", "c"]
    assert issubclass(Uploads, Cumulative)


def test_a_given_picture_stays_what_it_is() -> None:
    seen = Artifacts.of(PICTURE) | Artifacts.of(boxes(np.array([1]), PICTURE, "plant"))

    assert seen.get(Image) is PICTURE


@dataclass(frozen=True, eq=False)
class Vectors(Rows, Mergeable):
    """What a plug-in might say of crops."""

    subjects = (Crops,)

    crop: Ids

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        return cls.joined(parts)

    def without_stale(self, alive: Mapping[type[Artifact], Ids]) -> tuple[Self, int]:
        keep = living(self.crop, Crops, alive)
        return self.take(keep), int((~keep).sum())


def segments(*some: int) -> Segments:
    n = len(some)
    return Segments(
        np.array(some),
        np.zeros((n, 4), np.float32),
        np.ones(n, np.float32),
        np.full(n, "bed"),
        np.ones(n, np.float32),
        (None,) * n,
    )


def test_what_speaks_of_what_spoke_of_replaced_things_goes_too() -> None:
    crops = Crops(np.array([11, 12]), np.array([1, 2]), np.array(["bed", "bed"]), (PICTURE, PICTURE))
    seen = Artifacts.of(Vectors(np.array([11, 12, 12]))) | Artifacts.of(crops) | Artifacts.of(segments(1, 2))

    later = seen | Artifacts.of(segments(1, 3))

    left, vectors = later.get(Crops), later.get(Vectors)
    assert left is not None
    assert vectors is not None
    assert left.id.tolist() == [11]
    assert vectors.crop.tolist() == [11]
    assert later.stale == 3


def test_a_detection_outlives_its_segment_and_forgets_it() -> None:
    found = boxes(np.array([5, 6]), PICTURE, "plant", segment=2)

    later = Artifacts.of(segments(1, 2)) | Artifacts.of(found) | Artifacts.of(segments(1))

    left = later.get(Detections)
    assert left is not None
    assert left.id.tolist() == [5, 6]
    assert left.segment.tolist() == [NOTHING, NOTHING]


def test_what_speaks_of_the_whole_picture_never_goes_stale() -> None:
    picture = Classifications(np.array([0]), np.array([0]), np.array(["wet"]), np.ones(1, np.float32))

    later = (
        Artifacts.of(picture) | Artifacts.of(segments(1)) | Artifacts.of(boxes(np.array([1]), PICTURE, "x"))
    )

    assert later.get(Classifications) == picture
    assert later.stale == 0
