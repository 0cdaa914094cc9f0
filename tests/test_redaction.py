"""Secrets are cut out of texts, and the rest of a text is left alone."""

from __future__ import annotations

import json
import logging

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from consumer.ops.logging import configure_logging
from consumer.redaction import HIDDEN, redacted

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL2IuZXhhbXBsZSJ9.c2lnbmF0dXJlX29m-dGhlX3Rva2Vu"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQplanted+key/material==\n-----END PRIVATE KEY-----"
SECRETS = {
    "a token": (f"got {TOKEN}, why?", "c2lnbmF0dXJlX29m"),
    "a bearer's": ("Authorization: Bearer opaque.token-of/another+kind==", "opaque"),
    "in a dict": (repr({"authorization": "bearer opaque.token-of/another+kind"}), "opaque"),
    "basic": ("'Authorization': 'Basic dXNlcjpwYXNz'", "dXNlcjpwYXNz"),
    "an access token": ("ya29.a0AfH6SMBx-planted_one", "planted"),
    "a signature": ('"X-MLWorker-Signature": "sha256=0123456789abcdef0123456789abcdef"', "0123456789abcdef"),
    "credentials": ("POST https://user:pa55word@b.example/x failed", "pa55word"),
    "a signed url": ("https://b.example/hook?X-Goog-Signature=abcdef12&x=1 said no", "abcdef12"),
    "a private key": (f"cannot read {KEY}", "planted"),
    "half a private key": (KEY[:50], "planted"),
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_known_by_its_looks(kind: str) -> None:
    text, secret = SECRETS[kind]

    assert secret not in redacted(text)
    assert HIDDEN in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "gs://photos/acme/originals/a@b.jpg?x=1 does not exist",
        "model 'm': m.pt has sha256 " + "0" * 64 + ", expected " + "1" * 64,
        "https://b.example answered 500: basic authentication is required, a bearer token is missing",
        "callback_url https://b.example:443 is not allowed: see https://b.example/docs",
        "steps.0.kwargs.name: unknown key; did you mean 'label'?",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_a_value_that_is_known_to_be_a_secret_is_cut_out_wherever_it_stands() -> None:
    assert redacted("xhunter22x hunter22", ["hunter22"]) == f"x{HIDDEN}x {HIDDEN}"
    assert redacted("ab hunter22-long", ["hunter22", "hunter22-long"]) == f"ab {HIDDEN}"
    assert redacted("a short one: abc", ["abc", ""]) == "a short one: abc"


@given(
    st.dictionaries(
        st.text(max_size=8), st.text(max_size=30) | st.sampled_from([t for t, _ in SECRETS.values()])
    )
)
def test_a_line_of_json_stays_one(event: dict[str, str]) -> None:
    assert set(orjson.loads(redacted(orjson.dumps(event).decode()))) <= {
        redacted(key) for key in event
    } | set(event)
    json.loads(redacted(json.dumps(event)))


class Unspeakable:
    """Becomes a text only when the line is rendered."""

    def __str__(self) -> str:
        return f"Bearer {TOKEN}"

    __repr__ = __str__


def fail_with(secret: str) -> None:
    hidden_in_a_variable = secret  # noqa: F841
    raise ValueError(f"no luck with Authorization: Bearer {TOKEN}")


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.usefixtures("logs")
def test_no_line_of_the_log_has_a_secret_wherever_it_hides(
    style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("DEBUG", style)  # type: ignore[arg-type]
    log = structlog.get_logger()

    for text, _ in SECRETS.values():
        log.info("event", text=text, nested={"list": [text]})
    log.info(f"in the event itself {TOKEN}", value=Unspeakable())
    try:
        fail_with("-".join(["a", "secret", "without", "looks"]))
    except ValueError:
        log.exception("failed")
        logging.getLogger("some.library").exception("failed too with %s", TOKEN)

    lines = capsys.readouterr().err
    assert lines.count("no luck with") >= 2
    for _, secret in SECRETS.values():
        assert secret not in lines
    assert TOKEN not in lines
    assert "a-secret-without-looks" not in lines  # no frame's variables are shown
    if style == "json":
        assert all(orjson.loads(line) for line in lines.splitlines())


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "part",
    ["eyJ-", "eyJabcdefgh.", "http://", "https://a?b", "bearer ", "authorization: basic ", "://a@"],
)
def test_a_long_text_made_for_it_keeps_nobody_waiting(part: str) -> None:
    assert redacted(part * 200_000)  # with the square of its length it would take hours
