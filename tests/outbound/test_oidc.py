"""ID tokens: one for each origin, fetched in time, kept while they last, and shown to nobody else."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import google.auth.exceptions
import pytest

from consumer.errors import CallbackFailed
from consumer.outbound import oidc
from consumer.outbound.callback import Signer
from consumer.outbound.oidc import audience_of, oidc_signer
from contracts.failure import FailureClass
from tests.outbound.identity import MetadataServer, serving_metadata, token_for

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def audience_sent(sign: Signer, url: str) -> str:
    payload = (await header(sign, url)).split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=="))["aud"])


async def header(sign: Signer, url: str = "https://backend.example/x") -> str:
    headers = await sign(url, b"body")
    assert list(headers) == ["Authorization"]
    scheme, _, token = headers["Authorization"].partition(" ")
    assert scheme == "Bearer"
    return token


@dataclass
class Service:
    """An identity service and its clock."""

    now: float = 1_000_000.0
    lifetime: float = 3600.0
    asked: list[str] = field(default_factory=list)
    failure: Exception | None = None
    answer: Callable[[str], str] | None = None

    def fetch(self, audience: str) -> str:
        self.asked.append(audience)
        if self.failure:
            raise self.failure
        if self.answer:
            return self.answer(audience)
        return token_for(audience, self.now + self.lifetime, len(self.asked))

    def signer(self) -> Signer:
        return oidc_signer(self.fetch, clock=lambda: self.now)


class TestAudience:
    @pytest.mark.parametrize(
        ("url", "audience"),
        [
            ("https://backend.example/api/v1/results?x=1", "https://backend.example"),
            ("https://Backend.Example:443/", "https://backend.example"),
            ("https://backend.example:8443/", "https://backend.example:8443"),
            ("http://backend:80/", "http://backend"),
            ("http://backend:443/", "http://backend:443"),
            ("https://[fd00::1]:8443/", "https://[fd00::1]:8443"),
            ("https://b\u00fccher.example/", "https://xn--bcher-kva.example"),
        ],
    )
    async def test_a_token_is_for_the_called_origin_and_no_other(self, url: str, audience: str) -> None:
        assert audience_of(url) == audience
        assert await audience_sent(Service().signer(), url) == audience

    async def test_a_host_never_sees_the_token_of_another(self) -> None:
        service = Service()
        sign = service.signer()

        tokens = {await header(sign, f"https://{name}.example/") for name in ("a", "b", "a", "b")}

        assert len(tokens) == 2
        assert service.asked == ["https://a.example", "https://b.example"]

    async def test_http_and_https_have_tokens_of_their_own(self) -> None:
        sign = Service().signer()

        assert await header(sign, "http://a.example/") != await header(sign, "https://a.example/")


class TestKeeping:
    async def test_a_token_serves_until_shortly_before_its_own_end(self) -> None:
        service = Service()
        sign = service.signer()
        first = await header(sign)
        service.now += 2900
        assert await header(sign) == first
        service.now += 200

        assert await header(sign) != first
        assert len(service.asked) == 2

    async def test_the_end_is_the_tokens_own_word(self) -> None:
        service = Service(lifetime=900)  # what the metadata server kept from before
        sign = service.signer()
        first = await header(sign)
        service.now += 400

        assert await header(sign) != first

    async def test_an_old_token_serves_while_no_new_one_is_to_be_had(self) -> None:
        service = Service()
        sign = service.signer()
        first = await header(sign)
        service.failure = google.auth.exceptions.TransportError("away")
        service.now += 3100
        assert await header(sign) == first
        assert await header(sign) == first
        assert len(service.asked) == 2  # not with every call
        service.now += 600

        with pytest.raises(CallbackFailed):  # it is over
            await header(sign)

    async def test_many_calls_at_once_fetch_it_once(self) -> None:
        service = Service()
        sign = service.signer()

        tokens = await asyncio.gather(*(header(sign) for _ in range(20)))

        assert (len(set(tokens)), len(service.asked)) == (1, 1)

    async def test_a_caller_that_leaves_does_not_take_it_from_the_others(self) -> None:
        go_on = threading.Event()
        service = Service()

        def slowly(audience: str) -> str:
            go_on.wait(10)
            return token_for(audience, service.now + 3600)

        service.answer = slowly
        sign = service.signer()
        first, second = (asyncio.create_task(header(sign)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        go_on.set()

        assert await second
        assert len(service.asked) == 1

    async def test_origins_that_messages_choose_fill_no_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(oidc, "MAX_ORIGINS", 3)
        service = Service()
        tokens = oidc.IdTokens(service.fetch, lambda: service.now)

        for i in range(20):
            await tokens.of(f"https://{i}.example")

        assert len(tokens._kept) == 3


class TestFailures:
    @pytest.mark.parametrize(
        ("failure", "meaning"),
        [
            (google.auth.exceptions.DefaultCredentialsError("none"), (FailureClass.CONFIGURATION, False)),
            (google.auth.exceptions.RefreshError("not bound"), (FailureClass.CONFIGURATION, False)),
            (google.auth.exceptions.TransportError("away"), (FailureClass.TRANSIENT, True)),
            (google.auth.exceptions.RefreshError("x", retryable=True), (FailureClass.TRANSIENT, True)),
        ],
    )
    async def test_no_identity_is_the_operators_and_no_service_an_outage(
        self, failure: Exception, meaning: object
    ) -> None:
        with pytest.raises(CallbackFailed) as failed:
            await header(Service(failure=failure).signer())

        assert (failed.value.failure_class, failed.value.outage) == meaning
        assert str(failed.value).startswith("no ID token for https://backend.example: ")

    async def test_a_service_that_hangs_is_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        over = threading.Event()
        monkeypatch.setattr(oidc, "FETCH_TIMEOUT", 0.1)

        with pytest.raises(CallbackFailed) as failed:
            await header(Service(answer=lambda _: str(over.wait(10))).signer())
        over.set()

        assert (failed.value.failure_class, failed.value.outage) == (FailureClass.TRANSIENT, True)

    @pytest.mark.parametrize("answer", ["", "<html>", "a.b.c", token_for("x", 1).rpartition(".")[0]])
    async def test_what_is_no_token_is_not_sent_and_not_shown(self, answer: str) -> None:
        with pytest.raises(CallbackFailed) as failed:
            await header(Service(answer=lambda _: answer).signer())

        assert failed.value.failure_class is FailureClass.CONFIGURATION
        assert not answer or answer not in str(failed.value)


@pytest.fixture
def metadata_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MetadataServer]:
    with serving_metadata(monkeypatch) as server:
        yield server


class TestGooglesOwnWay:
    async def test_the_token_comes_from_the_metadata_server_without_any_proxy(
        self, metadata_server: MetadataServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

        assert await audience_sent(oidc_signer(), "https://backend.example/x") == "https://backend.example"
        assert metadata_server.audiences == ["https://backend.example"]

    async def test_a_key_file_that_is_none_is_the_operators_mistake(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        file = tmp_path / "key.json"
        file.write_text('{"type": "service_account", "private_key": "planted-key-material"}')
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))

        with pytest.raises(CallbackFailed) as failed:
            await header(oidc_signer())

        assert failed.value.failure_class is FailureClass.CONFIGURATION
        assert "planted" not in str(failed.value)
