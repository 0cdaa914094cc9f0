from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Tracer

from tests.end_to_end.conftest import play as play
from tests.end_to_end.conftest import toys as toys
from tests.telemetry.collector import Collector, collector


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector on this machine, which no proxy leads to."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with collector() as found:
        yield found


@pytest.fixture
def backend(traces: Collector) -> Iterator[Tracer]:
    """What a publisher with OpenTelemetry has: its spans are in the collector as soon as they end."""
    provider = TracerProvider(resource=Resource({"service.name": "backend"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{traces.url}/v1/traces")))
    yield provider.get_tracer("backend")
    provider.shutdown()
