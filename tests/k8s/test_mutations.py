"""Each check finds what it is there for: mistakes made on purpose, each found by that one alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.catalogue import OURS
from tests.k8s.every_check import NAMES, failing
from tests.k8s.manifests import Manifests

MUTATIONS: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "mutations.yaml").read_text())


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda it: it["mistake"].replace(" ", "-"))
def test_a_mistake_is_found_by_the_check_that_is_named_and_by_no_other(mutation: dict[str, Any]) -> None:
    broken = Manifests.to_be_changed(mutation["overlay"])
    make(mutation, broken)
    assert set(failing(broken)) == {mutation["fails"]}


def test_there_are_twenty_mistakes_at_least_and_none_is_there_twice() -> None:
    assert len({it["mistake"] for it in MUTATIONS}) == len(MUTATIONS) >= 20


def test_every_check_of_ours_is_seen_to_find_something() -> None:
    named = {it["fails"] for it in MUTATIONS}
    assert named <= NAMES
    assert OURS.keys() <= named


def make(mutation: dict[str, Any], manifests: Manifests) -> None:
    """Make the mistake; one that changes nothing is a mistake of this list."""
    kind, name = mutation["in"].split(" ")
    *path, last = mutation["path"]
    inner: Any = manifests.one(kind, name)
    for key in path:
        inner = inner[_index(inner, key)]
    last = _index(inner, last)
    before = inner[last] if isinstance(inner, list) else inner.get(last)
    if mutation.get("remove"):
        del inner[last]
        return
    if "replace" in mutation:
        old, new = mutation["replace"]
        assert old in before
        inner[last] = before.replace(old, new)
    else:
        inner[last] = mutation["to"]
    assert inner[last] != before


def _index(inner: Any, key: Any) -> Any:
    """Return the key, or the index of the one item that a mapping describes."""
    if not isinstance(key, dict):
        return key
    [found] = [i for i, item in enumerate(inner) if key.items() <= item.items()]
    return found
