"""A small HTTP backend on this machine: it answers as a test tells it to, and remembers what it was sent."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Call:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    """By lower-case name."""
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)


@dataclass
class SmallBackend:
    """What to answer, and what came."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b"{}"
    silent: bool = False
    """Whether there is no answer at all, until the test is over."""
    hangs: bool = False
    """Whether the answer stops after its first byte, until the test is over."""
    endless: bool = False
    """Whether the answer never stops."""
    calls: list[Call] = field(default_factory=list)
    sent: int = 0
    """Bytes of an endless answer that left."""
    over: threading.Event = field(default_factory=threading.Event)
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[SmallBackend]:
    backend = SmallBackend()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            backend.connections += 1
            if tls is not None:  # here, in the connection's own thread, not in the one that accepts
                self.request = tls.wrap_socket(self.request, server_side=True)
            super().setup()

        def finish(self) -> None:
            super().finish()
            if tls is not None:
                self.request.close()  # the server knows only the socket that was wrapped

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            backend.calls.append(Call("POST", self.path, headers, content))
            if backend.silent:
                backend.over.wait(30)
                return
            self.send_response(backend.status)
            for name, value in backend.headers.items():
                self.send_header(name, value)
            if backend.hangs or backend.endless:
                self.send_header("Connection", "close")
                self.end_headers()
                self._answer_slowly()
            else:
                self.send_header("Content-Length", str(len(backend.answer)))
                self.end_headers()
                self.wfile.write(backend.answer)

        def do_GET(self) -> None:
            backend.calls.append(Call("GET", self.path, {}, b""))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer_slowly(self) -> None:
            try:
                self.wfile.write(b"x")
                self.wfile.flush()
                while backend.endless and not backend.over.is_set():
                    backend.sent += self.wfile.write(b"x" * 65536)
            except OSError:
                return  # the caller has heard enough
            backend.over.wait(30)

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that does not like our certificate hangs up

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    backend.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield backend
    finally:
        backend.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
