"""With which token a request about an object goes out, and on which way it was fetched."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from google.api_core import exceptions as api
from google.oauth2.credentials import Credentials

from consumer.storage.gcs_requests import ObjectRequests

API = "http://storage.example"
OBJECT = {"name": "a.jpg", "generation": "7", "size": "3", "etag": "x", "updated": "2026-01-01T00:00:00Z"}


class Server:
    """Answers tokens, or the API as a proxy would pass it on, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.refused: set[str] = set()
        self.url = ""

    def answer(self, path: str, token: str | None) -> tuple[int, dict[str, str | int]]:
        self.asked.append((path, token))
        if path == "/token":
            return 200, {"access_token": f"token-{len(self.asked)}", "expires_in": 3600}
        if token in self.refused:
            return 401, {"error": "revoked"}
        return 200, {**OBJECT}


@contextmanager
def serving() -> Iterator[Server]:
    known = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            authorization = self.headers.get("Authorization")
            status, body = known.answer(self.path, authorization and authorization.removeprefix("Bearer "))
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        known.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield known
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Server]]:
    """The token server, and the proxy that leads to the API and to nowhere else."""
    with ExitStack() as stack:
        tokens, proxy = stack.enter_context(serving()), stack.enter_context(serving())
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield tokens, proxy


def requests_with(tokens: Server) -> ObjectRequests:
    credentials = Credentials(  # type: ignore[no-untyped-call]
        None, refresh_token="r", token_uri=f"{tokens.url}/token", client_id="c", client_secret="s"
    )
    return ObjectRequests(credentials, API, (5.0, 5.0), 2)


def test_a_token_is_not_fetched_through_the_proxy_that_leads_to_the_api(
    servers: tuple[Server, Server],
) -> None:
    tokens, proxy = servers
    about = requests_with(tokens)
    for _ in range(2):
        assert about.stat("photos", "a.jpg", None).generation == 7
    about.close()

    assert [path for path, _ in tokens.asked] == ["/token"]
    assert proxy.asked == [(f"{API}/storage/v1/b/photos/o/a.jpg", "token-1")] * 2


def test_a_token_that_was_revoked_is_replaced_once(servers: tuple[Server, Server]) -> None:
    tokens, proxy = servers
    about = requests_with(tokens)
    proxy.refused = {"token-1"}

    assert about.stat("photos", "a.jpg", None).generation == 7

    assert [token for _, token in proxy.asked] == ["token-1", "token-2"]
    proxy.refused = {"token-2", "token-3"}
    with pytest.raises(api.Unauthorized):
        about.stat("photos", "a.jpg", None)
    assert [token for _, token in proxy.asked[2:]] == ["token-2", "token-3"]
    about.close()
