"""The environment: what is needed, what is optional, and what is told when it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from consumer.settings import InvalidSettings, Settings, full_name, load_settings

LEAST = {
    "GOOGLE_CLOUD_PROJECT": "nursery",
    "SUBSCRIPTION": "requests",
    "RESULTS_TOPIC": "results",
    "DEAD_LETTER_TOPIC": "dead-letters",
    "BUCKET": "nursery-photos",
    "BACKEND_URL": "https://backend.example.com",
}
DOCUMENTED = """
GOOGLE_CLOUD_PROJECT SUBSCRIPTION REQUESTS_TOPIC RESULTS_TOPIC DEAD_LETTER_TOPIC
BUCKET ALLOWED_BUCKETS IMAGE_PREFIXES ALLOW_SHARED_PREFIXES ROUTES_FILE PRESETS_FILE MODEL_PATH DEVICES
BACKEND_URL BACKEND_CALLBACK_TIMEOUT CALLBACK_ALLOWED_HOSTS CALLBACK_AUTH CALLBACK_HMAC_KEY_FILE
CALLBACK_NOT_FOUND_WAIT SLOTS MAX_ATTEMPTS HOLD_TIMEOUT PIPELINE_TIMEOUT DRAIN_TIMEOUT LEDGER
MODEL_MEMORY
MAX_MESSAGE_BYTES MAX_IMAGE_BYTES MAX_IMAGE_PIXELS DECODED_MEMORY MAX_RESULT_BYTES
CLAIM_CHECK_BYTES TENANT_CONCURRENCY TENANT_SHARES
PORT LOG_LEVEL LOG_FORMAT PUBSUB_EMULATOR_HOST STORAGE_EMULATOR_HOST
OTEL_EXPORTER_OTLP_ENDPOINT OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG OTEL_SERVICE_NAME
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Give exactly the least that a worker needs."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)
    for name, value in LEAST.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def wrong() -> dict[str, str]:
    with pytest.raises(InvalidSettings) as refused:
        load_settings()
    lines = [line.partition(": ") for line in str(refused.value).splitlines()]
    return {name: message for name, _, message in lines}


def test_the_least_is_enough() -> None:
    settings = load_settings()

    assert (settings.google_cloud_project, settings.bucket) == ("nursery", "nursery-photos")
    assert str(settings.backend_url) == "https://backend.example.com/"


def test_every_documented_variable_is_read() -> None:
    assert {name.lower() for name in DOCUMENTED.split()} <= set(Settings.model_fields)


def test_the_documented_defaults_hold() -> None:
    settings = load_settings()

    assert (settings.max_attempts, settings.hold_timeout, settings.pipeline_timeout) == (5, 7200, 1800)
    assert (settings.drain_timeout, settings.backend_callback_timeout) == (300, 30)
    assert (settings.callback_not_found_wait, settings.claim_check_bytes) == (120, 9_000_000)
    assert (settings.ledger, settings.callback_auth, settings.model_path) == ("on", "none", "demo")
    assert (settings.port, settings.log_level, settings.log_format) == (8080, "INFO", "json")
    assert settings.image_prefixes == ("{tenant_id}/",)
    assert (settings.slots, settings.devices, settings.allow_shared_prefixes) == (None, (), False)


def test_every_missing_variable_is_named_at_once(environment: pytest.MonkeyPatch) -> None:
    for name in LEAST:
        environment.delenv(name)

    assert wrong() == dict.fromkeys(LEAST, "required")


@pytest.mark.parametrize("name", LEAST)
def test_an_empty_variable_is_a_missing_one(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name, "")

    assert wrong() == {name: "required"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SLOTS", "many", "valid integer"),
        ("SLOTS", "0", "greater than 0"),
        ("MAX_ATTEMPTS", "-1", "greater than 0"),
        ("PORT", "65536", "less than or equal to 65535"),
        ("HOLD_TIMEOUT", "0", "greater than 0"),
        ("CALLBACK_NOT_FOUND_WAIT", "-1", "greater than or equal to 0"),
        ("LEDGER", "maybe", "'on' or 'off'"),
        ("CALLBACK_AUTH", "basic", "'none', 'oidc' or 'hmac'"),
        ("LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("BACKEND_URL", "backend.example.com", "valid URL"),
        ("BACKEND_URL", "ftp://backend.example.com", "scheme"),
        ("TENANT_SHARES", "acme", "valid number"),
        ("TENANT_SHARES", "acme=3,acme=2", "one share for each tenant"),
        ("TENANT_SHARES", "acme=0", "greater than 0"),
        ("TENANT_SHARES", "acme=inf", "finite number"),
        ("TENANT_SHARES", "acme=3,=2", "a tenant id is"),
        ("IMAGE_PREFIXES", "photos/", "would let every tenant read the same folder"),
        ("IMAGE_PREFIXES", "{tenant_id}/,photos/", "photos/ would let every tenant"),
        ("IMAGE_PREFIXES", "{tenant}/", "expected {tenant_id}, {session_id} or {image_id}"),
        ("IMAGE_PREFIXES", "{tenant_id.__class__}/", "expected {tenant_id}, {session_id} or {image_id}"),
        ("IMAGE_PREFIXES", "{}/", "expected {tenant_id}, {session_id} or {image_id}"),
        ("IMAGE_PREFIXES", "{tenant_id/", "expected '}'"),
    ],
)
def test_a_wrong_value_is_told_under_its_name(
    environment: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    environment.setenv(name, value)

    found = wrong()

    assert list(found) == [name]
    assert expected in found[name]


def test_a_key_is_needed_to_sign_with_one(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("CALLBACK_AUTH", "hmac")
    assert wrong() == {"CALLBACK_HMAC_KEY_FILE": "required with CALLBACK_AUTH=hmac"}

    environment.setenv("CALLBACK_HMAC_KEY_FILE", str(tmp_path / "key"))
    assert load_settings().callback_hmac_key_file == tmp_path / "key"


def test_tenants_are_given_their_shares_by_name(environment: pytest.MonkeyPatch) -> None:
    assert load_settings().tenant_shares == {}

    environment.setenv("TENANT_SHARES", "acme=3, other = 0.5")

    assert load_settings().tenant_shares == {"acme": 3.0, "other": 0.5}


@pytest.mark.parametrize(
    ("value", "words"),
    [("a-bucket", ("a-bucket",)), (" a-bucket , b-bucket,, ", ("a-bucket", "b-bucket")), ("", ())],
)
def test_lists_are_separated_by_commas(
    environment: pytest.MonkeyPatch, value: str, words: tuple[str, ...]
) -> None:
    environment.setenv("ALLOWED_BUCKETS", value)

    assert load_settings().allowed_buckets == words


def test_photos_are_read_from_the_workers_bucket_unless_others_are_named(
    environment: pytest.MonkeyPatch,
) -> None:
    assert load_settings().input_buckets == {"nursery-photos"}

    environment.setenv("ALLOWED_BUCKETS", "a-bucket,b-bucket")
    assert load_settings().input_buckets == {"a-bucket", "b-bucket"}


def test_a_shared_folder_must_be_wanted(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("IMAGE_PREFIXES", "photos/")
    environment.setenv("ALLOW_SHARED_PREFIXES", "1")

    assert load_settings().image_prefixes == ("photos/",)


def test_there_may_be_no_backend_if_that_is_said(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("BACKEND_URL", "none")

    assert load_settings().backend_url == "none"


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("requests", "projects/nursery/subscriptions/requests"),
        ("projects/other/subscriptions/requests", "projects/other/subscriptions/requests"),
    ],
)
def test_a_subscription_may_be_given_short_or_full(
    environment: pytest.MonkeyPatch, name: str, full: str
) -> None:
    environment.setenv("SUBSCRIPTION", name)

    assert load_settings().subscription_path == full
    assert full_name("topics", "results", "nursery") == "projects/nursery/topics/results"


def test_settings_do_not_change_once_they_are_read() -> None:
    settings: Any = load_settings()

    with pytest.raises(ValueError, match="frozen"):
        settings.bucket = "another-bucket"


def test_overrides_count_before_the_environment() -> None:
    assert load_settings({"bucket": "another-bucket"}).bucket == "another-bucket"
