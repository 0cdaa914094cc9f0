"""A server that speaks as much of Cloud Storage's JSON API as concerns buckets themselves."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Storage:
    """What it says; a status instead of an answer is what it refuses with."""

    url: str = ""
    buckets: dict[str, dict[str, Any] | int] = field(default_factory=dict)
    permitted: dict[str, list[str] | int] = field(default_factory=dict)
    notifications: dict[str, list[dict[str, Any]] | int] = field(default_factory=dict)

    def answer(self, path: str, query: dict[str, list[str]]) -> dict[str, Any] | int:
        bucket, _, rest = path.removeprefix("/storage/v1/b/").partition("/")
        match rest:
            case "":
                known = self.buckets.get(bucket, 404)
                return (
                    known if isinstance(known, int) else {"kind": "storage#bucket", "name": bucket, **known}
                )
            case "iam/testPermissions":
                allowed = self.permitted.get(bucket, 404)
                if isinstance(allowed, int):
                    return allowed
                asked = [name for name in query["permissions"] if name in allowed]
                return {"permissions": asked} if asked else {}
            case "notificationConfigs":
                items = self.notifications.get(bucket, 404)
                return (
                    items if isinstance(items, int) else {"kind": "x", **({"items": items} if items else {})}
                )
            case _:
                return 404


@contextmanager
def storage_server() -> Iterator[Storage]:
    storage = Storage()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            answer = storage.answer(url.path, parse_qs(url.query))
            body = json.dumps(answer if isinstance(answer, dict) else {"error": {"code": answer}}).encode()
            self.send_response(200 if isinstance(answer, dict) else answer)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as storage.url:
        yield storage


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The url of a server that answers as the handler does, and says nothing of it."""
    handler.log_message = lambda *_: None  # type: ignore[method-assign]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
