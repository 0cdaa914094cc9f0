from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.storage.object_names import beside_folder, name_of, path_of
from pipeline_steps.errors import InvalidInput

SEGMENTS = st.one_of(
    st.sampled_from(["", ".", "..", "%", "%-", "%+", "%=", "%25", "%2E", "%09", "%7F", "a", "é", "e\u0301"]),
    st.text("%+-=.25E0a/", max_size=12),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=300),
)
NAMES = (
    st.lists(SEGMENTS, min_size=1, max_size=5).map("/".join).filter(lambda n: 1 <= len(n.encode()) <= 1024)
)


@given(NAMES)
@example("x" * 1024)
@example("日" * 341)
@example("%+" * 512)
@example("\x01" * 1024)
def test_a_path_reads_back_as_its_name(name: str) -> None:
    path = path_of(name)
    assert name_of(path) == name
    assert name_of(beside_folder(path)) == name


@given(NAMES)
def test_every_part_of_a_path_is_one_file_name(name: str) -> None:
    for part in (*path_of(name), *beside_folder(path_of(name))):
        assert part not in {"", ".", ".."}
        assert "/" not in part
        assert "\x00" not in part
        assert len(part.encode()) <= 255
    assert len("/".join(path_of(name)).encode()) < 3500  # of 4096 for a whole path


@given(NAMES, NAMES)
def test_two_names_never_share_a_path(one: str, other: str) -> None:
    paths = {path_of(one), beside_folder(path_of(one))}
    assert (one == other) == (not paths.isdisjoint({path_of(other), beside_folder(path_of(other))}))


@given(
    st.lists(
        st.text(st.characters(exclude_characters="/\x00"), min_size=1, max_size=12), min_size=1, max_size=3
    )
)
def test_whatever_lies_in_the_folder_is_one_object_or_none(path: list[str]) -> None:
    """A hand may drop a file under any name; what is listed is found again under the same path."""
    name = name_of(tuple(path))
    if name is not None:
        assert tuple(path) in (path_of(name), beside_folder(path_of(name)))


@pytest.mark.parametrize(
    "name", ["t/originals/x.jpg", "100%.jpg", "a b#c?d.jpg", "a%20b.jpg", "Grün/日本.jpg", ".x"]
)
def test_ordinary_names_are_written_as_they_are(name: str) -> None:
    assert path_of(name) == tuple(name.split("/"))


@given(st.text(max_size=5))
def test_any_string_is_a_name_or_refused(name: str) -> None:
    with contextlib.suppress(InvalidInput):
        assert name_of(path_of(name)) == name
