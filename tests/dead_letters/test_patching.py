"""JSON merge patch on bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.dead_letters.envelope import Original
from consumer.dead_letters.patching import InvalidPatch, NotPatchable, Patch, merged, read_patch
from tests.dead_letters.postbox import request

# RFC 7396, appendix A
CASES: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(("target", "patch", "result"), CASES)
def test_the_cases_of_the_standard(target: Any, patch: Any, result: Any) -> None:
    before = json.dumps(target)

    assert merged(target, patch) == result
    assert json.dumps(target) == before, "the target itself is left alone"


@given(JSON, st.dictionaries(st.text(max_size=3), JSON, max_size=3))
def test_a_patch_applied_twice_is_applied_once(target: Any, patch: dict[str, Any]) -> None:
    once = merged(target, patch)

    assert merged(once, patch) == once


@given(JSON)
def test_an_empty_patch_changes_no_object(target: Any) -> None:
    assert merged(target, {}) == (target if isinstance(target, dict) else {})


def test_a_bodys_pipeline_is_replaced_and_the_rest_stays() -> None:
    patch = read_patch(b'{"pipeline_definition": {"steps": [1]}, "callback_url": null}')
    body = json.loads(patch.applied_to(Original(request(1, callback_url="https://old.example"), {})))

    assert body == json.loads(request(1, pipeline_definition={"steps": [1]}))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\x00", "not JSON"),
        (b"", "not JSON"),
        (b"[1]", "a JSON list, no object"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "cannot be written again"),
    ],
)
def test_a_body_that_is_no_object_cannot_be_patched(data: bytes, words: str) -> None:
    with pytest.raises(NotPatchable, match=words):
        Patch({"b": 1}).applied_to(Original(data, {}))


def test_a_notifications_body_is_not_patched_in_vain() -> None:
    with pytest.raises(NotPatchable, match="read from its attributes"):
        Patch({"a": 1}).applied_to(Original(b"{}", {"eventType": "OBJECT_FINALIZE", "bucketId": "photos"}))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "expected a JSON object, got list"),
        (b"null", "got NoneType"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "nested too deep"),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, "not JSON"),
    ],
)
def test_a_file_that_holds_no_patch_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidPatch, match=words):
        read_patch(data)


def test_the_digest_ignores_the_order_of_keys_and_nothing_else() -> None:
    assert Patch({"a": 1, "b": 2}).digest == Patch({"b": 2, "a": 1}).digest
    assert Patch({"a": 1}).digest != Patch({"a": 2}).digest
