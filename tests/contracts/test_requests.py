"""What a request may say of itself: tenant, photo, settings, keys of a newer backend."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from contracts.request import ProcessingRequest, check_tenant_id, split_object_url
from tests.contracts.samples import IMAGE, SESSION


def request(**changes: Any) -> ProcessingRequest:
    least = {
        "tenant_id": "acme",
        "session_id": str(SESSION),
        "image_id": str(IMAGE),
        "image_url": "gs://nursery-photos/acme/originals/bed.jpg",
        "pipeline_definition": {"steps": []},
    }
    return ProcessingRequest.model_validate({**least, **changes})


@pytest.mark.parametrize("tenant", ["a", "tenant-001", "Acme_2.eu", "0", "x" * 64, "models2", "my-results"])
def test_a_tenant_id_is_letters_digits_dots_and_dashes(tenant: str) -> None:
    assert check_tenant_id(tenant) == tenant
    assert request(tenant_id=tenant).tenant_id == tenant


@pytest.mark.parametrize(
    "tenant",
    [
        "",
        " ",
        ".",
        "..",
        "-a",
        "_a",
        "a/b",
        "a\\b",
        "a b",
        "ä",
        "a\n",
        "a\x00",
        "x" * 65,
        "../a",
        "{tenant_id}",
    ],
)
def test_a_tenant_id_that_could_be_read_as_a_path_is_refused(tenant: str) -> None:
    with pytest.raises(ValidationError, match="1 to 64 letters, digits"):
        request(tenant_id=tenant)


@pytest.mark.parametrize("tenant", ["models", "results", "processed", "originals", "dead-letters", "Models"])
def test_a_tenant_id_that_names_a_folder_of_the_workers_is_refused(tenant: str) -> None:
    with pytest.raises(ValidationError, match="is the name of a folder"):
        request(tenant_id=tenant)


@pytest.mark.parametrize("value", [None, 5, True, ["a"], {"a": 1}])
def test_a_tenant_id_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="valid string"):
        request(tenant_id=value)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("gs://abc/x", ("abc", "x")),
        ("gs://my-bucket_1.eu/a/b/c d.jpg", ("my-bucket_1.eu", "a/b/c d.jpg")),
        ("gs://abc/ñ#1?x=%41", ("abc", "ñ#1?x=%41")),
        ("gs://abc//x", ("abc", "/x")),
    ],
)
def test_an_object_url_is_a_bucket_and_everything_after_its_slash(url: str, parts: tuple[str, str]) -> None:
    assert split_object_url(url) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gs://",
        "gs://b",
        "gs://bucket",
        "gs://bucket/",
        "gs:///x",
        " gs://bucket/x",
        "s3://bucket/x",
        "https://bucket/x",
    ],
)
def test_an_object_url_without_bucket_or_path_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="expected gs://bucket/path"):
        request(image_url=url)


@pytest.mark.parametrize(
    "bucket", ["b", "ab", "Photos", "UPPER", "a b", "-ab", "ab-", "bucket@evil", "x" * 223, "año"]
)
def test_a_wrong_bucket_is_what_is_named_and_what_a_right_one_is_like(bucket: str) -> None:
    with pytest.raises(ValidationError) as refused:
        request(image_url=f"gs://{bucket}/acme/x.jpg")

    [told] = refused.value.errors()
    assert told["loc"] == ("image_url",)
    assert f"{bucket[:80]!r} cannot be a bucket's name: expected 3 to 222 lower-case letters" in told["msg"]


def test_an_object_url_ends_somewhere() -> None:
    with pytest.raises(ValidationError, match="at most 2048"):
        request(image_url="gs://bucket/" + "x" * 2048)


@pytest.mark.parametrize("name", ["session_id", "image_id"])
@pytest.mark.parametrize("value", ["", "7", "not-a-uuid", None, 7])
def test_ids_are_uuids(name: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        request(**{name: value})


@pytest.mark.parametrize("value", [None, {}])
def test_settings_that_are_null_are_no_settings(value: Any) -> None:
    assert request(settings=value).settings == {}
    assert request().settings == {}


@pytest.mark.parametrize("value", [[], "x", 5])
def test_settings_of_another_type_are_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        request(settings=value)


def test_keys_of_a_newer_backend_are_kept_aside() -> None:
    newer = request(priority="high", region={"name": "north"})

    assert newer.model_extra == {"priority": "high", "region": {"name": "north"}}
    assert newer.tenant_id == "acme"
