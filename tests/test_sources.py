"""A tenant's message reads from the tenant's own folders and from nowhere else."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.jobs import Ids, Source
from consumer.sources import SourceRules, check_name
from pipeline_steps.errors import NotAllowed

SESSION, IMAGE = UUID(int=1), UUID(int=2)
BY_SESSION = "cultivadores/sessions/{session_id}/images/"
RULES = SourceRules(frozenset({"photos", "more-photos"}), ("{tenant_id}/",))


def allowed(name: str, *, tenant: str = "t", bucket: str = "photos", rules: SourceRules = RULES) -> bool:
    try:
        rules.check(Ids(tenant, SESSION, IMAGE), Source(bucket, name))
    except NotAllowed:
        return False
    return True


@pytest.mark.parametrize(
    "name", ["t/x.jpg", "t/originals/x.jpg", "t/a b/ñ#?%41.jpg", "t/...", "t/..x/x", "t/t/x"]
)
def test_a_tenants_own_photo_may_be_read(name: str) -> None:
    assert allowed(name)
    assert allowed(name, bucket="more-photos")


@pytest.mark.parametrize(
    "name",
    [
        "t2/x.jpg",
        "tt/x.jpg",
        "T/x.jpg",
        "u/t/x.jpg",
        "x.jpg",
        "t",
        "tx",
        "t-/x",
        "originals/t/x.jpg",
    ],
)
def test_a_path_outside_the_tenants_folder_is_refused(name: str) -> None:
    assert not allowed(name)


def test_a_tenant_whose_name_begins_as_anothers_does_not_see_it() -> None:
    assert allowed("t2/x.jpg", tenant="t2")
    assert not allowed("t2/x.jpg", tenant="t")
    assert not allowed("t/x.jpg", tenant="t2")


@pytest.mark.parametrize(
    "name",
    [
        "t/../u/x.jpg",
        "t/..",
        "t/.",
        "t/./x",
        "../t/x",
        "t//x",
        "/t/x",
        "t/",
        "t/x/",
        "//",
        "",
        "t/a/../../u/x",
    ],
)
def test_a_path_with_an_empty_or_dotted_segment_is_refused(name: str) -> None:
    with pytest.raises(NotAllowed, match=r"has an empty, '\.' or '\.\.' segment"):
        RULES.check(Ids("t", SESSION, IMAGE), Source("photos", name))


@pytest.mark.parametrize("character", ["\n", "\r", "\t", "\x00", "\x7f", "\x85", "\x1b"])
def test_a_path_with_a_control_character_is_refused(character: str) -> None:
    with pytest.raises(NotAllowed, match="has a control character"):
        RULES.check(Ids("t", SESSION, IMAGE), Source("photos", f"t/a{character}b.jpg"))


@pytest.mark.parametrize("bucket", ["other", "Photos", "photos.", "photos2", ""])
def test_another_bucket_is_refused_and_the_allowed_ones_are_named(bucket: str) -> None:
    with pytest.raises(NotAllowed) as refused:
        RULES.check(Ids("t", SESSION, IMAGE), Source(bucket, "t/x.jpg"))

    assert str(refused.value) == (
        f"bucket mismatch: {bucket!r} is not one of ['more-photos', 'photos'] (ALLOWED_BUCKETS)"
    )


def test_a_refusal_says_where_the_photo_should_lie() -> None:
    rules = SourceRules(frozenset({"photos"}), ("{tenant_id}/originals/", BY_SESSION))

    with pytest.raises(NotAllowed) as refused:
        rules.check(Ids("t", SESSION, IMAGE), Source("photos", "u/x.jpg"))

    assert str(refused.value) == (
        "path 'u/x.jpg' does not belong to tenant 't': it must start with t/originals/ or "
        f"cultivadores/sessions/{SESSION}/images/ (IMAGE_PREFIXES)"
    )


def test_todays_backend_stores_by_session() -> None:
    rules = SourceRules(frozenset({"photos"}), ("{tenant_id}/", BY_SESSION))
    other_session = UUID(int=9)

    assert allowed(f"cultivadores/sessions/{SESSION}/images/{IMAGE}.jpg", rules=rules)
    assert allowed("t/x.jpg", rules=rules)
    assert not allowed(f"cultivadores/sessions/{other_session}/images/{IMAGE}.jpg", rules=rules)
    assert not allowed(f"cultivadores/sessions/{SESSION}/x.jpg", rules=rules)
    assert not allowed(f"cultivadores/sessions/{SESSION}/images", rules=rules)
    assert not allowed(f"cultivadores/sessions/{SESSION}/images2/x.jpg", rules=rules)


def test_a_prefix_ends_with_a_whole_segment_also_when_its_slash_is_missing() -> None:
    rules = SourceRules(frozenset({"photos"}), ("{tenant_id}/in", "by-image/{image_id}"))

    assert allowed("t/in/x.jpg", rules=rules)
    assert not allowed("t/inner/x.jpg", rules=rules)
    assert allowed(f"by-image/{IMAGE}/x.jpg", rules=rules)
    assert not allowed(f"by-image/{IMAGE}x/x.jpg", rules=rules)


def test_a_tenant_named_as_a_folder_of_all_does_not_own_it() -> None:
    rules = SourceRules(frozenset({"photos"}), ("{tenant_id}/", BY_SESSION))
    other_session = UUID(int=9)

    assert not allowed(
        f"cultivadores/sessions/{other_session}/images/x.jpg", tenant="cultivadores", rules=rules
    )
    assert not allowed("cultivadores/x.jpg", tenant="cultivadores", rules=rules)
    assert allowed(f"cultivadores/sessions/{SESSION}/images/x.jpg", tenant="cultivadores", rules=rules)
    assert allowed("cultivadores/x.jpg", tenant="cultivadores")  # where there is no such folder


@pytest.mark.parametrize(
    "name",
    [
        "t\u2215x.jpg",  # a division slash
        "t\uff0fx.jpg",  # a full-width slash
        "\uff54/x.jpg",  # a full-width t
        "t\u0338/x.jpg",  # a t with a stroke through it
        "\u200bt/x.jpg",  # a space of no width
        "t\\x.jpg",
        "%74/x.jpg",
        "t%2fx.jpg",
        "./t/x.jpg",
        " t/x.jpg",
    ],
)
def test_a_name_that_only_looks_like_the_tenants_folder_is_refused(name: str) -> None:
    assert not allowed(name)


@pytest.mark.parametrize(
    "name", ["t/%2e%2e/u/x.jpg", "t/..%2fu/x.jpg", "t/..\\u/x.jpg", "t/\uff0e\uff0e/u/x.jpg"]
)
def test_what_only_a_browser_would_read_as_a_way_up_is_a_name_like_any_other(name: str) -> None:
    assert allowed(name)  # the store takes names by their bytes: these lie in the tenant's folder


def test_what_can_be_told_before_the_tenant_is_known_is_told() -> None:
    RULES.check_object("photos", "anybodys/x.jpg")
    with pytest.raises(NotAllowed, match="bucket mismatch"):
        RULES.check_object("other", "anybodys/x.jpg")
    with pytest.raises(NotAllowed, match="segment"):
        RULES.check_object("photos", "a/../b.jpg")


def test_without_prefixes_nothing_may_be_read() -> None:
    assert not allowed("t/x.jpg", rules=SourceRules(frozenset({"photos"}), ()))


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True), st.text(max_size=30))
def test_whatever_is_allowed_lies_below_the_tenants_folder(tenant: str, name: str) -> None:
    if allowed(name, tenant=tenant):
        assert name.startswith(f"{tenant}/")
        assert not {"", ".", ".."} & set(name.split("/"))
        assert name.isprintable() or all(ord(character) >= 0xA0 or character >= " " for character in name)


@given(st.lists(st.sampled_from(["t", "u", "..", ".", "", "x.jpg", "t\n"]), min_size=1, max_size=5))
def test_no_arrangement_of_segments_leaves_the_folder(segments: list[str]) -> None:
    name = "/".join(segments)

    if allowed(name):
        assert segments[0] == "t"
        assert len(segments) > 1
        assert set(segments) <= {"t", "u", "x.jpg"}


def test_a_plain_name_is_any_path_of_plain_segments() -> None:
    check_name("a/b c/ñ.jpg")
    with pytest.raises(NotAllowed):
        check_name("a/../b")
