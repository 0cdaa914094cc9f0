"""Repeated warnings: the first of each in a minute are told, the others are counted.

A worker that cannot pull warns twice a second, and one whose backend is newer warns with every message. What
became of a message that failed is always told, and so is every error of ours.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from typing import NamedTuple

import structlog
from structlog.typing import EventDict, WrappedLogger

log = structlog.get_logger()

WINDOW = 60.0
FIRST = 5
"""Of each in a window."""
_KNOWN = 1000
"""Different warnings that are counted: their text may be a message's, and must not pile up."""

_ONE_PER_MESSAGE = frozenset({"failed", "error_callback_refused"})
"""Warnings that say what became of a message."""
_SUMMARY = "repeated"


class _Warning(NamedTuple):
    event: str
    details: str


class Repeats:
    """Counts warnings: as a processor of structlog ours, as a filter of `logging` those of libraries.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._began = clock()
        self._counts: Counter[_Warning] = Counter()

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Let a line of ours pass, or drop it. So far it has only what its caller says: no message's id."""
        del logger
        name = str(event.get("event"))
        if name == _SUMMARY:
            return event
        may_repeat = method == "warning" and name not in _ONE_PER_MESSAGE and not event.get("exc_info")
        if not self._is_told(_Warning(name, repr(event)) if may_repeat else None):
            raise structlog.DropEvent
        return event

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a library's line pass, or not. Numbers in it do not make it another one."""
        text = str(record.msg)
        # Python's own warnings all have the same text, and it says nothing.
        details = record.getMessage() if text == "%s" else text
        return self._is_told(None if record.exc_info else _Warning(record.name, details))

    def _is_told(self, warning: _Warning | None) -> bool:
        """Count a warning, and return whether it is one of the first; log the others when time is up."""
        over: Counter[_Warning] = Counter()
        with self._lock:
            if self._clock() - self._began >= WINDOW or len(self._counts) >= _KNOWN:
                over, self._counts, self._began = self._counts, Counter(), self._clock()
            told = True
            if warning is not None:
                self._counts[warning] += 1
                told = self._counts[warning] <= FIRST
        for (event, details), count in over.items():
            if count > FIRST:
                # In no context: it is not about the message that happens to be told of now.
                Context().run(log.warning, _SUMMARY, of=event, times=count - FIRST, details=details)
        return told
