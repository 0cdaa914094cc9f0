"""Traces for a collector: spans by OpenTelemetry's SDK, sent by OTLP over HTTP from a thread of its own.

Imported only where there is a collector, as the SDK takes a while. Names of attributes are those of
OpenTelemetry's conventions where it has one, and otherwise ours: `mlworker.NAME`.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider, sampling
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util.types import Attributes

from consumer.models.batch_info import BatchInfo, Ending
from consumer.ops.tracing import Span, Tracer, Value
from contracts import __version__

if TYPE_CHECKING:
    from consumer.broker import Delivery
    from consumer.settings import Settings

log = structlog.get_logger()

FLUSH_SECONDS = 3.0
"""How long the end of a drain waits for a collector: less than closing everything may take in all."""

_SYSTEM = "gcp_pubsub"
_NAMES = {
    "message_id": "messaging.message.id",
    "delivery_attempt": "messaging.gcp_pubsub.message.delivery_attempt",
    "topic": "messaging.destination.name",
    "host": "server.address",
    "status": "http.response.status_code",
}
_KINDS = {
    "publish results": SpanKind.PRODUCER,
    "publish dead letter": SpanKind.PRODUCER,
    "ack": SpanKind.CLIENT,
    "hand back": SpanKind.CLIENT,
    "callback": SpanKind.CLIENT,
    "download": SpanKind.CLIENT,
}
_OPERATIONS = {
    "publish results": ("publish", "send"),
    "publish dead letter": ("publish", "send"),
    "ack": ("ack", "settle"),
    "hand back": ("modack", "settle"),
}


class OtlpTracer(Tracer):
    """Records messages, and sends their spans to a collector.

    Args:
        settings: where the collector is, and which share of messages is recorded.
    """

    def __init__(self, settings: Settings) -> None:
        endpoint = f"{str(settings.otel_exporter_otlp_endpoint).rstrip('/')}/v1/traces"
        self._subscription = settings.subscription_path
        resource = Resource.create(
            {
                "service.name": settings.otel_service_name,
                "service.version": __version__,
                "service.instance.id": socket.gethostname(),
            }
        )
        self._exporter = OTLPSpanExporter(endpoint)
        self._provider = TracerProvider(_sampler(settings), resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._sdk = self._provider.get_tracer("mlworker", __version__)

    def begin(self, delivery: Delivery, parent: str) -> Span | None:
        """Return the span of a message, a part of its publisher's, if it is drawn."""
        subscription = self._subscription.rpartition("/")[2]
        span = self._sdk.start_span(
            f"process {subscription}",
            _context_of(parent),
            SpanKind.CONSUMER,
            _attributes(
                {
                    "message_id": delivery.message_id,
                    "delivery_attempt": delivery.delivery_attempt,
                    "waited_s": (datetime.now(UTC) - delivery.publish_time).total_seconds(),
                },
                {
                    "messaging.system": _SYSTEM,
                    "messaging.operation.name": "process",
                    "messaging.operation.type": "process",
                    "messaging.destination.subscription.name": subscription,
                    "messaging.message.body.size": len(delivery.data),
                },
            ),
        )
        return _Recorded(self._sdk, span) if span.is_recording() else None

    async def close(self) -> None:
        """Send what is left; a collector that does not answer is not waited for longer than a drain can."""
        # Not on one of the loop's threads: those are waited for, however long it takes.
        sending = threading.Thread(target=self._provider.shutdown, name="last-traces", daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, FLUSH_SECONDS)
        if sending.is_alive():
            log.warning("traces_not_sent", seconds=FLUSH_SECONDS)
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # it stops trying again


class _Recorded:
    """A span of the SDK's."""

    __slots__ = ("_failed", "_sdk", "span", "trace_parent")

    def __init__(self, sdk: trace.Tracer, span: trace.Span) -> None:
        self._sdk = sdk
        self._failed = False
        self.span = span
        here = span.get_span_context()
        self.trace_parent = f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}"

    def begin(self, name: str, attributes: Mapping[str, Value]) -> Span:
        told: dict[str, Value] = {}
        if name in _OPERATIONS:
            operation, kind = _OPERATIONS[name]
            told = {
                "messaging.system": _SYSTEM,
                "messaging.operation.name": operation,
                "messaging.operation.type": kind,
            }
        context = trace.set_span_in_context(self.span, Context())
        kinds = _KINDS.get(name, SpanKind.INTERNAL)
        return _Recorded(self._sdk, self._sdk.start_span(name, context, kinds, _attributes(attributes, told)))

    def note(self, attributes: Mapping[str, Value]) -> None:
        self.span.set_attributes(_attributes(attributes))

    def happened(self, event: str, attributes: Mapping[str, Value]) -> None:
        self.span.add_event(event, _attributes(attributes))

    def fail(self, code: str) -> None:
        if not self._failed:
            self._failed = True
            self.span.set_attribute("error.type", code)
            self.span.set_status(StatusCode.ERROR, code)

    def end(self) -> None:
        self.span.end()

    def shared(self, batch: BatchInfo, askers: Sequence[Span]) -> None:
        """Record the batch in a trace of its own, as it is no one message's; it and its askers are linked."""
        ended = time.time_ns()
        asked_by = [asker.span for asker in askers if isinstance(asker, _Recorded)]
        span = self._sdk.start_span(
            f"batch {batch.model}",
            Context(),
            SpanKind.INTERNAL,
            _attributes(
                {
                    "model": batch.model,
                    "batch_size": batch.size,
                    "batch_room": batch.most,
                    "batch_fill": batch.fill,
                    "trigger": batch.trigger.value,
                    "messages": len(asked_by),
                    "longest_wait_s": max(batch.waits),
                }
            ),
            [trace.Link(asker.get_span_context()) for asker in asked_by],
            ended - int(batch.seconds * 1e9),
        )
        if batch.ending is not Ending.ANSWERED:
            span.set_attribute("error.type", batch.ending.value)
            span.set_status(StatusCode.ERROR, batch.ending.value)
        span.end(ended)
        for asker in asked_by:
            if asker.is_recording():  # else it was cancelled meanwhile
                asker.add_link(span.get_span_context())


class _Sampler(sampling.Sampler):
    """Draws messages as it is told to. What runs for messages that were drawn is recorded with them."""

    def __init__(self, messages: sampling.Sampler) -> None:
        self._messages = messages

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[trace.Link] | None = None,
        trace_state: trace.TraceState | None = None,
    ) -> sampling.SamplingResult:
        """Decide about a new span."""
        chosen = sampling.ALWAYS_ON if links else self._messages
        return chosen.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """Say what it does."""
        return self._messages.get_description()


def _sampler(settings: Settings) -> sampling.Sampler:
    name = settings.otel_traces_sampler
    roots: sampling.Sampler
    if name.endswith("traceidratio"):
        roots = sampling.TraceIdRatioBased(settings.otel_traces_sampler_arg)
    else:
        roots = sampling.ALWAYS_ON if name.endswith("always_on") else sampling.ALWAYS_OFF
    if name.startswith("parentbased_"):
        return _Sampler(sampling.ParentBased(roots))
    # Only messages are drawn: what is a part of one is recorded with it.
    return _Sampler(sampling.ParentBased(roots, remote_parent_sampled=roots, remote_parent_not_sampled=roots))


def _context_of(trace_parent: str) -> Context:
    """Return what makes a new span a part of the publisher's; ids that are all zeros name none."""
    if not trace_parent:
        return Context()
    _, trace_id, span_id, flags = trace_parent.split("-")
    publisher = trace.SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(int(flags, 16))
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(publisher), Context())


def _attributes(
    given: Mapping[str, Value], by_convention: Mapping[str, Value] | None = None
) -> dict[str, str | int | float | bool]:
    named = {_NAMES.get(name, f"mlworker.{name}"): value for name, value in given.items()}
    return {name: value for name, value in {**(by_convention or {}), **named}.items() if value is not None}
