"""`LOG_LEVEL=DEBUG`: a line in the log for every stage of a message, with the time it took.

The stages are the spans of `tracing.py`, with or without a collector: what says there where it is, is told
here too. Without `DEBUG` a message has a line for how it ended, and lines for what went wrong.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from consumer.ops.tracing import Span, Tracer, Value

if TYPE_CHECKING:
    from consumer.broker import Delivery
    from consumer.models.batch_info import BatchInfo

log = structlog.get_logger()


class StageLog(Tracer):
    """Tells the log of every stage of every message.

    Args:
        tracer: decides which of them are recorded too.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, delivery: Delivery, parent: str) -> Span:
        """Return the span of a message."""
        return _Stage("message", {}, self._tracer.begin(delivery, parent), parent)

    async def close(self) -> None:
        """Send what is recorded."""
        await self._tracer.close()


class _Stage:
    """A stage, and what records it, if anything does."""

    def __init__(self, name: str, attributes: Mapping[str, Value], inner: Span | None, passed: str) -> None:
        self._name = name
        self._attributes = dict(attributes)
        self._passed = passed
        self._code = ""
        self._began = time.perf_counter()
        self.inner = inner

    @property
    def trace_parent(self) -> str:
        return self.inner.trace_parent if self.inner is not None else self._passed

    def begin(self, name: str, attributes: Mapping[str, Value]) -> Span:
        inner = self.inner.begin(name, attributes) if self.inner is not None else None
        return _Stage(name, attributes, inner, self._passed)

    def note(self, attributes: Mapping[str, Value]) -> None:
        self._attributes.update(attributes)
        if self.inner is not None:
            self.inner.note(attributes)

    def happened(self, event: str, attributes: Mapping[str, Value]) -> None:
        log.debug(event, stage=self._name, **attributes)
        if self.inner is not None:
            self.inner.happened(event, attributes)

    def fail(self, code: str) -> None:
        self._code = self._code or code
        if self.inner is not None:
            self.inner.fail(code)

    def end(self) -> None:
        ms = round((time.perf_counter() - self._began) * 1000, 3)
        told = {name: value for name, value in self._attributes.items() if value is not None}
        if self._code:
            told["failure"] = self._code
        log.debug("stage", stage=self._name, ms=ms, **told)
        if self.inner is not None:
            self.inner.end()

    def shared(self, batch: BatchInfo, askers: Sequence[Span]) -> None:
        log.debug(
            "stage",
            stage=f"batch {batch.model}",
            ms=round(batch.seconds * 1000, 3),
            batch_size=batch.size,
            messages=len(askers),
            ending=batch.ending.value,
        )
        inner = [one.inner for one in askers if isinstance(one, _Stage) and one.inner is not None]
        if inner:
            inner[0].shared(batch, inner)
