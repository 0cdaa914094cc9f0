"""Google's metadata server, as far as ID tokens go, and something of a token's form."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from google.auth.compute_engine import _metadata


def token_for(audience: str, ends: float, serial: int = 0) -> str:
    """Return something of a token's form; what it says is for its reader to check."""
    parts = [
        {"alg": "RS256", "typ": "JWT"},
        {"aud": audience, "exp": int(ends), "jti": serial},
        "planted signature of an ID token",
    ]
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join(encoded)


@dataclass
class MetadataServer:
    """What it was asked for, and what it gave."""

    audiences: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)


@contextmanager
def serving_metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[MetadataServer]:
    given = MetadataServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if self.headers.get("Metadata-Flavor") != "Google":
                self.send_error(403)
                return
            if url.path.endswith("/identity"):
                audience = parse_qs(url.query)["audience"][0]
                given.audiences.append(audience)
                given.tokens.append(token_for(audience, time.time() + 3600))
                self._answer(given.tokens[-1], "text/html")
            else:
                self._answer(json.dumps({"email": "worker@project.iam.gserviceaccount.com"}))

        def _answer(self, text: str, kind: str = "application/json") -> None:
            self.send_response(200)
            self.send_header("Metadata-Flavor", "Google")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("GCE_METADATA_IP", address)
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", address)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield given
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
