"""The identity of a piece of work: the same for the same work, another for another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.jobs import Ids, Source, of_generation, result_id

IDS = Ids("acme", UUID(int=1), UUID(int=2))
SOURCE = Source("nursery-photos", "acme/originals/bed.jpg")
DEFINITION: dict[str, Any] = {"steps": [{"type": "step", "name": "detection", "kwargs": {"confidence": 0.5}}]}
SETTINGS: dict[str, Any] = {"species": ["ficus", "aloe"], "n": 1}


def identity(**changes: Any) -> str:
    arguments = {"ids": IDS, "source": SOURCE, "definition": DEFINITION, "settings": SETTINGS, **changes}
    return result_id(**arguments)


def test_it_never_changes() -> None:
    # A release that changes this number runs every message again that was recorded before it.
    assert identity() == "b647778f12e777fac5ea2d8639caaeb64ae393efe5d5160bb5190e7c163515d6"


def test_it_is_a_sha256_in_hexadecimal() -> None:
    assert len(identity()) == 64
    assert int(identity(), 16) > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"ids": replace(IDS, tenant_id="bcme")},
        {"ids": replace(IDS, session_id=UUID(int=3))},
        {"ids": replace(IDS, image_id=UUID(int=3))},
        {"ids": Ids("acme", IDS.image_id, IDS.session_id)},
        {"source": replace(SOURCE, bucket="other-photos")},
        {"source": replace(SOURCE, name="acme/originals/other.jpg")},
        {"source": replace(SOURCE, generation=1)},
        {"source": replace(SOURCE, generation=2)},
        {"definition": {"steps": []}},
        {"definition": {**DEFINITION, "type": "chain"}},
        {"settings": {}},
        {"settings": {**SETTINGS, "n": 2}},
        {"settings": {**SETTINGS, "species": ["aloe", "ficus"]}},
        {"forced_by": "message-1"},
        {"forced_by": "message-2"},
    ],
    ids=str,
)
def test_it_changes_with_everything_that_makes_other_work(changes: dict[str, Any]) -> None:
    assert identity(**changes) != identity()


def test_all_of_these_differ_from_each_other_too() -> None:
    generations = {identity(source=replace(SOURCE, generation=n)) for n in (None, 1, 2)}
    forced = {identity(forced_by=message) for message in (None, "message-1", "message-2")}

    assert len(generations) == 3
    assert len(forced) == 3


@given(st.permutations(sorted(SETTINGS)), st.permutations(["type", "name", "kwargs"]))
def test_it_does_not_depend_on_the_order_of_keys(settings: list[str], keys: list[str]) -> None:
    [step] = DEFINITION["steps"]

    same = identity(
        settings={name: SETTINGS[name] for name in settings},
        definition={"steps": [{key: step[key] for key in keys}]},
    )

    assert same == identity()


def test_values_do_not_run_into_each_other() -> None:
    one = identity(source=Source("nursery-photos", "a/b"), settings={"a": "b"})
    other = identity(source=Source("nursery-photos", "a"), settings={"b": {"a": "b"}})

    assert one != other


def test_a_photo_that_replaced_the_recorded_one_is_other_work() -> None:
    ids = {of_generation(identity(), generation) for generation in (1, 2, 12)}

    assert len(ids | {identity()}) == 4
    assert of_generation(identity(), 1) == of_generation(identity(), 1)
    assert all(len(one) == 64 for one in ids)


def test_a_source_knows_its_url() -> None:
    assert SOURCE.url == "gs://nursery-photos/acme/originals/bed.jpg"
