"""Secrets are planted wherever the worker meets one, and looked for in everything it leaves behind."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from consumer.ops.health import serving
from consumer.ops.logging import configure_logging
from tests.end_to_end.site import BUCKET, RESULTS_SUB
from tests.outbound.identity import serving_metadata

HMAC_KEY = "planted-hmac-key-0123456789"
PRIVATE_KEY = "MIIEvQplanted/private+key"
IN_QUERY, PASSWORD = "planted-query-secret", "planted-password"
LOOK = {"type": "step", "name": "look"}
FAIL = {"type": "step", "name": "fail"}


class Gossip:
    """A backend that repeats everything it was sent in its answers."""

    def __init__(self) -> None:
        self.answers: dict[str, list[int]] = defaultdict(list)
        """By session: the next statuses; then 200."""
        self.headers: list[dict[str, str]] = []
        self.bodies: list[str] = []
        self.app = Starlette(routes=[Route("/{path:path}", self._post, methods=["POST"])])

    async def _post(self, request: Request) -> Response:
        body = (await request.body()).decode()
        self.headers.append(dict(request.headers))
        self.bodies.append(body)
        waiting = self.answers[json.loads(body)["sessionId"]]
        status = waiting.pop(0) if waiting else 200
        said = f"{request.headers.get('authorization')} {request.headers.get('x-mlworker-signature')}"
        return PlainTextResponse(f"{said} at {request.url} with {dict(request.headers)}", status)

    def proofs(self) -> set[str]:
        """Every signature and token that arrived."""
        values = {
            headers.get(name, "")
            for headers in self.headers
            for name in ("authorization", "x-mlworker-signature")
        }
        return {value.removeprefix("Bearer ").removeprefix("sha256=") for value in values} - {""}


def messages(site: Any, own: str, gossip: Gossip) -> list[dict[str, Any]]:
    """Return requests that end in every way there is, each answered by gossip."""
    query = f"{own}/hook?X-Goog-Signature={IN_QUERY}"
    host = own.removeprefix("http://")
    answered = [
        (site.request(LOOK), []),
        (site.request(LOOK), [500]),
        (site.request(LOOK), [422]),
        (site.request(FAIL), [422]),
        (site.request(LOOK, callback_url=query), [503]),
        (site.request(LOOK, callback_url=query), [422]),
        (site.request(FAIL, callback_url=query), [400]),
        (site.request(LOOK, callback_url=f"http://planted:{PASSWORD}@{host}/hook"), []),
        (site.request(LOOK, callback_url=f"http://{PASSWORD}:@{host}"), []),
        (site.request(LOOK, callback_url=f"http://planted:{PASSWORD}/@{host}/hook"), []),
        (site.request(LOOK, callback_url=f"https://elsewhere.example/?key={IN_QUERY}"), []),
        (site.request(LOOK, callback_url=f"https://elsewhere.example/\n?key={IN_QUERY}"), []),
        (site.request(LOOK, callback_url=f"https://e.example/?key={IN_QUERY}" + "x" * 2048), []),
        (site.request(LOOK, callback_url=[f"https://e.example/?key={IN_QUERY}"]), []),
        (site.request({"type": "step", "name": "lok"}, callback_url=query), [422]),
    ]
    for body, statuses in answered:
        gossip.answers[body["session_id"]] += statuses
    return [body for body, _ in answered]


async def left_behind(site: Any) -> dict[str, str]:
    """Return everything that others can read afterwards, by what it is."""
    found = {}
    for message in await site.messages(RESULTS_SUB):
        found[f"result {message.attributes['result_id']}"] = f"{message.data!r} {message.attributes}"
    for letter in await site.dead_letters():
        # The message itself stays untouched: what its publisher wrote into it is its publisher's.
        found[f"dead letter {letter.message_id}"] = str(letter.attributes)
        found[f"dead letter {letter.message_id}, of ours"] = (
            letter.data.decode().replace(IN_QUERY, "").replace(PASSWORD, "")
        )
    async for info in site.store.list(BUCKET, ""):
        data = (await site.store.read(BUCKET, info.name)).data
        found[f"object {info.name}"] = f"{data!r} {info.metadata}"
    return found


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize("auth", ["hmac", "oidc"])
@pytest.mark.usefixtures("logs")
def test_planted_secrets_are_in_nothing_the_worker_leaves_behind(
    play: Any,
    auth: str,
    style: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key_file = tmp_path / "hmac.key"
    key_file.write_text(HMAC_KEY)
    pem = f"-----BEGIN PRIVATE KEY-----\n{PRIVATE_KEY}\n-----END PRIVATE KEY-----\n"
    monkeypatch.setenv("GOOGLE_CREDENTIALS", json.dumps({"type": "service_account", "private_key": pem}))
    gossip = Gossip()
    configure_logging("DEBUG", style)  # type: ignore[arg-type]

    async def story(site: Any) -> None:
        await site.photo()
        async with serving(gossip.app, "127.0.0.1", 0) as port:
            own = f"http://127.0.0.1:{port}"
            settings = {"callback_auth": auth, "callback_hmac_key_file": key_file, "backend_url": own}
            async with site.worker(**settings) as running:
                sent = messages(site, own, gossip)
                for body in sent:
                    site.publish(body)
                await site.until_settled(len(sent), seconds=60)
                expired = site.request(LOOK)
                gossip.answers[expired["session_id"]] += [401, 401]
                site.publish(expired)
                probe = await _while_it_is_held(site, running)
                await site.until_settled(len(sent) + 1)
        assert site.reasons().count("succeeded") == 4
        assert site.reasons().count("given_up") == len(sent) - 3
        left = await left_behind(site)
        left |= {f"callback {i}": body for i, body in enumerate(gossip.bodies)}
        left |= {"probe": probe, "log": "".join(capsys.readouterr())}
        _look_for_secrets(left, gossip.proofs() | {HMAC_KEY, PRIVATE_KEY, IN_QUERY, PASSWORD})
        # It was quoted, without them: else this would prove nothing.
        assert sum("answered 4" in text and "[hidden]" in text for text in left.values()) >= 5
        assert len(gossip.proofs()) >= 1

    with ExitStack() as open_:
        if auth == "oidc":
            open_.enter_context(serving_metadata(monkeypatch))
        play(story)


async def _while_it_is_held(site: Any, running: Any) -> str:
    await site.until(lambda: running.patience.misconfigured, "the worker to notice")
    async with httpx.AsyncClient(trust_env=False) as client:
        probe = (await client.get(f"http://127.0.0.1:{running.port}/readyz")).text
        return probe + (await client.get(f"http://127.0.0.1:{running.port}/metrics")).text


def _look_for_secrets(left: dict[str, str], secrets: set[str]) -> None:
    for what, text in left.items():
        for secret in secrets:
            assert secret not in text, f"{what} has {secret[:30]}...: {text[:2000]}"
