"""Where the time of a message goes: its spans. This is the port; `otlp.py` sends them to a collector.

A worker's tracer begins a span for every message, in the publisher's trace, and whatever is done for the
message says so where it is done, with `span("fetch")` around it. The span in hand is a context variable:
tasks inherit it, and so do threads that are given a copy of the context. While nothing is recorded, as there
is no collector or this message was not drawn, all of that is one look at a variable.

What is told of a message: whose it is, how far it came, by what code it failed. Never what is in it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from consumer.broker import Delivery
    from consumer.models.batch_info import BatchInfo

Value = str | int | float | bool | None
"""Of an attribute; what is None is left out."""

_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Span(Protocol):
    """A part of a message's way, while it is being recorded."""

    @property
    def trace_parent(self) -> str:
        """What names this span to others, as W3C's header `traceparent` does."""
        ...

    def begin(self, name: str, attributes: Mapping[str, Value]) -> Span:
        """Return a new part of this one."""
        ...

    def note(self, attributes: Mapping[str, Value]) -> None:
        """Say more about it."""
        ...

    def happened(self, event: str, attributes: Mapping[str, Value]) -> None:
        """Note that something happened just now."""
        ...

    def fail(self, code: str) -> None:
        """Say that it failed; the first code counts."""
        ...

    def end(self) -> None:
        """Say that it is over."""
        ...

    def shared(self, batch: BatchInfo, askers: Sequence[Span]) -> None:
        """Record a batch that ran for these spans, which are the caller's own kind; on any thread."""
        ...


_here: ContextVar[Span | None] = ContextVar("span", default=None)
_passed: ContextVar[str] = ContextVar("passed_trace_parent", default="")
_NOTHING = nullcontext()


class Tracer:
    """Decides which messages are recorded. This one records none, and passes their publishers' traces on."""

    def message(self, delivery: Delivery) -> AbstractContextManager[None]:
        """Trace a message while the context lasts, in a task of its own."""
        parent = trace_parent_of(delivery.attributes) or ""
        span = self.begin(delivery, parent)
        if span is None:
            _passed.set(parent)
            return _NOTHING
        return _Within(span)

    def begin(self, delivery: Delivery, parent: str) -> Span | None:
        """Return the span of a message, or None if it is not to be recorded.

        Args:
            delivery: the message.
            parent: its publisher's `traceparent`, or nothing.
        """
        del delivery, parent
        return None

    async def close(self) -> None:
        """Send what is recorded; returns in a bounded time."""


def trace_parent_of(attributes: Mapping[str, str]) -> str | None:
    """Return the trace that a message's publisher names, if it is one: others are told of it.

    Pub/Sub's own client names it in an attribute of its own.
    """
    given = (attributes.get(name, "") for name in ("traceparent", "googclient_traceparent"))
    return next((value for value in given if _TRACE_PARENT.fullmatch(value)), None)


def span(name: str, /, **attributes: Value) -> AbstractContextManager[None]:
    """Record what is done while the context lasts; what it raises is its failure."""
    here = _here.get()
    return _NOTHING if here is None else _Within(here.begin(name, attributes))


def note(**attributes: Value) -> None:
    """Say more about the span in hand."""
    if (here := _here.get()) is not None:
        here.note(attributes)


def happened(event: str, /, **attributes: Value) -> None:
    """Note that something happened in the span in hand."""
    if (here := _here.get()) is not None:
        here.happened(event, attributes)


def fail(code: str) -> None:
    """Say that the span in hand failed."""
    if (here := _here.get()) is not None:
        here.fail(code)


def recorded() -> Span | None:
    """Return the span in hand, for who goes on with it elsewhere; None while nothing is recorded."""
    return _here.get()


def trace_parent() -> str:
    """Return what to tell others: the span in hand, else the publisher's; empty if there is neither."""
    here = _here.get()
    return _passed.get() if here is None else here.trace_parent


def exemplar(of: Span | None, project: str = "") -> dict[str, str] | None:
    """Return what leads from a measured number to the trace it was measured in.

    Args:
        of: what was measured.
        project: Google's, without which managed Prometheus makes no link to Cloud Trace.
    """
    parent = of.trace_parent if of is not None else ""
    if not parent:
        return None
    trace = {"trace_id": parent[3:35], "span_id": parent[36:52]}
    return trace | {"project_id": project} if project else trace


def ran(batch: BatchInfo) -> None:
    """Record a batch, once for all who asked for something in it. Called on its device's thread."""
    askers = [one for one in dict.fromkeys(batch.askers) if one is not None]
    if askers:
        askers[0].shared(batch, askers)


def code_of(error: BaseException) -> str:
    """Return the name of a failure: the stable code that ours have, else its class."""
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    code = getattr(error, "code", None)
    return code if isinstance(code, str) else type(error).__name__


class _Within:
    """A span as a context."""

    __slots__ = ("_before", "_span")

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._before: Token[Span | None] = _here.set(self._span)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._span.fail(code_of(error))
        self._span.end()
        _here.reset(self._before)
