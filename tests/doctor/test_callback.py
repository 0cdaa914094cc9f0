"""The backend: real sockets, real certificates, no request."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from consumer.doctor.findings import Severity
from tests.doctor.sites import Good, said, worst
from tests.doctor.tls import certificate, tls_server, trusting
from tests.peers import free_port

pytestmark = pytest.mark.anyio


async def test_a_backend_that_listens_is_reachable_and_hears_nothing(good: Good) -> None:
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                heard.append(connection.recv(1))

        thread = threading.Thread(target=serve)
        thread.start()
        port = listening.getsockname()[1]
        findings = await good.ask("callback.reachable", backend_url=f"http://127.0.0.1:{port}")
        thread.join(timeout=5)

    assert worst(findings) is Severity.OK
    assert heard in ([], [b""])


async def test_a_port_nobody_listens_on_is_told_from_a_name_nobody_has(good: Good) -> None:
    port = free_port()
    refused = await good.ask("callback.reachable", backend_url=f"http://127.0.0.1:{port}")
    unknown = await good.ask("callback.reachable", backend_url="https://backend.invalid")

    assert worst(refused) is worst(unknown) is Severity.ERROR
    assert f"127.0.0.1:{port} (127.0.0.1) refuses the connection: nothing listens there" in said(refused)
    assert "the name backend.invalid does not resolve" in said(unknown)


async def test_a_backend_that_does_not_answer_is_told_from_one_that_refuses(
    good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.doctor.connection._TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and never shakes hands
        findings = await good.ask(
            "callback.reachable", backend_url=f"https://127.0.0.1:{silent.getsockname()[1]}"
        )

    assert worst(findings) is Severity.ERROR
    assert "does not answer" in said(findings)


@pytest.mark.parametrize(
    ("made", "trusted", "words"),
    [
        ({}, True, ""),
        ({"days": -1}, True, "the certificate of localhost has expired"),
        ({"begins_in": 1}, True, "not valid yet"),
        ({}, False, "signed by itself"),
        ({"host": "other.example"}, True, "the certificate is not for localhost"),
    ],
)
async def test_certificates(
    good: Good, tmp_path: Path, made: dict[str, Any], trusted: bool, words: str
) -> None:
    files = certificate(tmp_path, **made)
    with tls_server(files) as port:
        own = {"tls": trusting(files[0])} if trusted else {}
        url = f"https://localhost:{port}"
        findings = await good.ask("callback.reachable", backend_url=url, **own)
        of_certificate = await good.ask("callback.certificate", backend_url=url, **own)

    assert worst(findings) is (Severity.ERROR if words else Severity.OK)
    assert words in said(findings)
    assert worst(of_certificate) is (Severity.SKIPPED if words else Severity.OK)


async def test_a_certificate_that_expires_soon_is_found(good: Good, tmp_path: Path) -> None:
    files = certificate(tmp_path, days=10)
    with tls_server(files) as port:
        url = f"https://localhost:{port}"
        findings = await good.ask("callback.certificate", backend_url=url, tls=trusting(files[0]))

    assert worst(findings) is Severity.WARNING
    assert "renew the certificate" in said(findings)


async def test_plain_http_where_https_is_expected_is_explained(good: Good) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        findings = await good.ask("callback.reachable", backend_url=url)
        thread.join(timeout=5)

    assert "speaks no TLS we understand" in said(findings)
    assert f"say so: {url.replace('https', 'http')}" in said(findings)


async def test_other_hosts_that_are_named_exactly_are_tried_too(good: Good) -> None:
    port = free_port()
    allowed = (f"http://127.0.0.1:{port}", "*.nursery.example")

    [finding] = await good.ask("callback.reachable", callback_allowed_hosts=allowed)

    assert (finding.severity, finding.subject) == (Severity.WARNING, "CALLBACK_ALLOWED_HOSTS")


@pytest.mark.parametrize(
    ("settings", "severity", "words"),
    [
        ({"backend_url": "none"}, Severity.INFO, "none"),
        ({"backend_url": "https://backend.example"}, Severity.OK, "https://backend.example:443"),
        (
            {"backend_url": "http://backend.example", "pubsub_emulator_host": None},
            Severity.WARNING,
            "plain http",
        ),
        ({"backend_url": "http://localhost:8080", "pubsub_emulator_host": None}, Severity.ERROR, "never"),
        ({"backend_url": "http://169.254.169.254/"}, Severity.ERROR, "never allowed"),
        ({"backend_url": "https://someone:secret@backend.example"}, Severity.ERROR, "BACKEND_URL"),
        ({"callback_allowed_hosts": ("ftp://backend",)}, Severity.ERROR, "ftp://backend"),
    ],
)
async def test_hosts(good: Good, settings: dict[str, Any], severity: Severity, words: str) -> None:
    findings = await good.ask("callback.hosts", **settings)

    assert worst(findings) is severity
    assert words in said(findings)
    assert "secret" not in said(findings)


async def test_a_host_that_may_not_be_called_is_not_even_tried(good: Good) -> None:
    port = free_port()
    for check in ("callback.reachable", "callback.certificate", "clock.skew"):
        url = f"http://127.0.0.1:{port}"
        findings = await good.ask(check, backend_url=url, pubsub_emulator_host=None, online=True)
        assert "see callback.hosts" in said(findings)


async def test_a_name_that_stands_for_this_machine_is_found(
    good: Good, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(_: object) -> list[str]:
        return ["169.254.169.254"]

    monkeypatch.setattr("consumer.doctor.site.resolve", resolve)

    findings = await good.ask("callback.reachable", backend_url="https://backend.example")

    assert worst(findings) is Severity.ERROR
    assert "169.254.169.254, which may not be called" in said(findings)


@pytest.mark.parametrize(
    ("key", "severity", "words"),
    [
        (b"0123456789abcdef0123456789abcdef\n", Severity.OK, "a key of 32 bytes"),
        (b"short\n", Severity.WARNING, "openssl rand -hex 32"),
        (b"\n", Severity.ERROR, "is empty"),
        (None, Severity.ERROR, "No such file"),
    ],
)
async def test_keys(good: Good, tmp_path: Path, key: bytes | None, severity: Severity, words: str) -> None:
    file = tmp_path / "key"
    if key is not None:
        file.write_bytes(key)

    findings = await good.ask("callback.key", callback_auth="hmac", callback_hmac_key_file=file)

    assert worst(findings) is severity
    assert words in said(findings)
    assert not key or key.strip() not in said(findings).encode() or not key.strip()


async def test_without_signatures_nothing_is_said_of_keys_and_tokens(good: Good) -> None:
    assert await good.ask("callback.key") == []
    assert await good.ask("callback.oidc") == []


async def test_who_gets_no_id_token_is_told(
    good: Good, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    oidc = {"callback_auth": "oidc", "backend_url": "https://backend.example"}

    findings = await good.ask("callback.oidc", **oidc)

    assert worst(findings) is Severity.ERROR
    assert "no ID token for https://backend.example" in said(findings)
    assert worst(await good.ask("callback.oidc", callback_auth="oidc")) is Severity.SKIPPED


async def test_who_gets_one_is_not_shown_it(good: Good, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.doctor.callback.fetch_token", lambda audience: f"secret for {audience}")

    findings = await good.ask("callback.oidc", callback_auth="oidc", backend_url="https://backend.example")

    assert worst(findings) is Severity.OK
    assert "secret" not in said(findings)
