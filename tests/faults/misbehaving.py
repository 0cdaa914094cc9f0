"""An HTTP server that misbehaves as a test tells it to: what backend and bucket have in common."""

from __future__ import annotations

import math
import socket
import ssl
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends RST."""


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes = field(repr=False)
    at: float
    """`time.monotonic()`."""


@dataclass(frozen=True)
class Answer:
    """What a request is answered with."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class Fault:
    """A misbehaviour, until it is lifted or has hit so many times."""

    only: Callable[[Received], bool] = field(default=lambda _: True, repr=False)
    status: int | None = None
    """Answered instead of what is proper; the request has no effect, unless `applied`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Instead of the proper body."""
    times: int | None = None
    applied: bool = False
    """The request takes effect at once, and only its answer is bad."""
    delay: float = 0.0
    """Seconds of silence before the answer; infinite: until lifted."""
    cut: Literal["", "reset", "close", "half"] = ""
    """Instead of an answer RST, or FIN; or FIN in the middle of the body."""
    drip: float = 0.0
    """Seconds between the bytes of the head and the body."""
    endless: bool = False
    """A body that never ends."""
    flip: bool = False
    """One byte of the body is wrong."""
    hits: int = 0
    _lifted: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def lifted(self) -> bool:
        return self._lifted.is_set()

    def lift(self) -> None:
        self._lifted.set()

    def hold(self) -> None:
        """Wait for the delay, or until lifted."""
        if self.delay:
            self.wait(None if math.isinf(self.delay) else self.delay)

    def wait(self, seconds: float | None) -> bool:
        """Wait so long, or until lifted; return whether it is."""
        return self._lifted.wait(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lift()


@dataclass(eq=False)
class Exchange:
    """A request and what became of it."""

    request: Received
    fault: Fault | None
    status: int | None = None
    """What was answered; None while or if nothing was."""


class MisbehavingServer(ABC):
    """A server on a port of this machine. What it knows survives `stop` and `start`."""

    def __init__(self) -> None:
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        """With what certificate it is served from the next start on; None for in the clear."""
        self.exchanges: list[Exchange] | deque[Exchange] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self._connections: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @abstractmethod
    def answer(self, request: Received) -> Answer:
        """Do what is asked and return the proper answer. Called by one thread at a time."""

    def misbehave(self, **how: Any) -> Fault:
        """Put a fault in force; the oldest that fits a request is what it gets."""
        fault = Fault(**how)
        with self._lock:
            self._faults = [*(f for f in self._faults if not f.lifted), fault]
        return fault

    def heal(self) -> None:
        """Lift all faults."""
        with self._lock:
            faults, self._faults = self._faults, []
        for fault in faults:
            fault.lift()

    def start(self) -> None:
        """Listen: at the port it had before, if it had one."""
        owner = self

        class Handler(_Handler):
            server_of = owner

        self._server = _Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections, and cut those there are."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed already

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heal()
        self.stop()

    # On the connections' threads

    def begin(self, request: Received) -> Exchange:
        with self._lock:
            fits = (f for f in self._faults if not f.lifted and (f.times is None or f.hits < f.times))
            fault = next((f for f in fits if f.only(request)), None)
            if fault is not None:
                fault.hits += 1
            exchange = Exchange(request, fault)
            self.exchanges.append(exchange)
        return exchange

    def proper(self, request: Received) -> Answer:
        with self._lock:
            return self.answer(request)

    def connected(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def disconnected(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that callers cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server_of: MisbehavingServer

    def setup(self) -> None:
        super().setup()
        self.server_of.connected(self.connection)

    def finish(self) -> None:
        self.server_of.disconnected(self.connection)
        try:
            super().finish()
        except OSError:
            return  # the caller has gone

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True  # the caller was killed in the middle of it
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Received(self.command, parts.path, parse_qs(parts.query), headers, body, time.monotonic())
        exchange = self.server_of.begin(request)
        fault = exchange.fault
        try:
            if fault is None:
                self._send(exchange, self.server_of.proper(request), Fault())
            else:
                self._misbehave(exchange, fault)
        except OSError:
            self.close_connection = True  # the caller has heard enough

    def _misbehave(self, exchange: Exchange, fault: Fault) -> None:
        answer = self.server_of.proper(exchange.request) if fault.applied else None
        fault.hold()
        if fault.cut in ("reset", "close"):
            if fault.cut == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close_connection = True
            self.connection.close()
            return
        if fault.status is not None:
            answer = Answer(fault.status, b'{"error": {"code": %d, "message": "told to"}}' % fault.status)
        elif answer is None:
            answer = self.server_of.proper(exchange.request)
        self._send(exchange, answer, fault)

    def _send(self, exchange: Exchange, answer: Answer, fault: Fault) -> None:
        body = answer.body if fault.body is None else fault.body
        if answer.status == 204:
            body = b""
        if fault.flip and body:
            body = bytes((body[0] ^ 1,)) + body[1:]
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers, **fault.headers}.items():
            self.send_header(name, value)
        if fault.endless:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        head = b"".join(self._headers_buffer) + b"\r\n"
        self._headers_buffer = []
        exchange.status = answer.status
        self._write(head, fault)
        self._write(body[: len(body) // 2] if fault.cut == "half" else body, fault)
        while fault.endless and not fault.lifted:
            self.wfile.write(b"x" * 65536)
        if fault.cut == "half" or fault.endless:
            self.close_connection = True

    def _write(self, data: bytes, fault: Fault) -> None:
        """Send it, byte by byte if told to, so that no single read of the caller's is ever slow."""
        if fault.drip:
            for at in range(len(data)):
                self.wfile.write(data[at : at + 1])
                self.wfile.flush()
                if fault.wait(fault.drip):
                    data = data[at + 1 :]
                    break
            else:
                return
        self.wfile.write(data)
        self.wfile.flush()
