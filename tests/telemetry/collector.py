"""A collector of traces: it takes what is sent by OTLP over HTTP, and reads it as a real one does."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2

ERROR = trace_pb2.Status.STATUS_CODE_ERROR


@dataclass(frozen=True)
class Span:
    """A span as it arrived; ids are hexadecimal, and empty where there is none."""

    trace: str
    id: str
    parent: str
    name: str
    kind: str
    attributes: Mapping[str, Any]
    links: frozenset[tuple[str, str]]
    """Trace and span of each."""
    events: tuple[tuple[str, Mapping[str, Any]], ...]
    error: str | None
    """The status's message, where it is an error."""
    start: int
    end: int
    resource: Mapping[str, Any]

    @property
    def place(self) -> tuple[str, str]:
        """What others link to."""
        return self.trace, self.id

    @property
    def trace_parent(self) -> str:
        """What a span says to others."""
        return f"00-{self.trace}-{self.id}-01"


@dataclass
class Collector:
    """What was sent."""

    url: str
    spans: list[Span] = field(default_factory=list)
    requests: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    """It answers nobody before this is set."""

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def of(self, trace: str) -> list[Span]:
        return [span for span in self.spans if span.trace == trace]

    def take(self, body: bytes) -> None:
        self.requests += 1
        request = ExportTraceServiceRequest.FromString(body)
        for group in request.resource_spans:
            resource = _values(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [_read(span, resource) for span in scope.spans]


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector that listens while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            found.gate.wait(30)
            right = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
            if right:
                found.take(body)
            self.send_response(200 if right else 404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        found.gate.set()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield found
        finally:
            found.gate.set()
            server.shutdown()
            thread.join()


def _read(span: trace_pb2.Span, resource: Mapping[str, Any]) -> Span:
    return Span(
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.name,
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        _values(span.attributes),
        frozenset((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        tuple((event.name, _values(event.attributes)) for event in span.events),
        span.status.message if span.status.code == ERROR else None,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        resource,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
