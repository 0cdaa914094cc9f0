"""The brake: a worker that gives up nearly everything for one reason stops, before it empties the queue.

A slip of ours (a wrong preset, a model that answers nonsense) can look like bad messages. The first few dead
letters are enough to see that; the rest is better off in the queue. As the window moves on, a few more
messages are let through, so that it releases by itself once the cause is gone.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger()

WINDOW = 300.0
"""Seconds looked back upon."""
_NEVER_OURS = frozenset({"malformed_message"})
"""What is not even a request cannot be a slip of ours, and must not block the queue. What an operator's file
or setting can make unreadable has codes of its own (`errors.py`), and counts."""


@dataclass
class Brake:
    """Engaged while more than `limit` messages, and over half of all, were given up with one code."""

    limit: int
    """0: never engaged."""
    clock: Callable[[], float] = time.monotonic
    _ended: deque[tuple[float, str]] = field(default_factory=deque)
    _codes: Counter[str] = field(default_factory=Counter)
    _was_engaged: bool = False

    def note(self, dead_letter: str) -> None:
        """Take note of a message's end: the code it was given up with, or an empty string."""
        dead_letter = "" if dead_letter in _NEVER_OURS else dead_letter
        self._ended.append((self.clock(), dead_letter))
        self._codes[dead_letter] += 1

    @property
    def why(self) -> str:
        """Why nothing should be pulled; empty while all is well."""
        self._forget()
        total = sum(self._codes.values())
        code, count = max(
            ((code, count) for code, count in self._codes.items() if code),
            key=lambda found: found[1],
            default=("", 0),
        )
        is_engaged = 0 < self.limit < count and count * 2 > total
        why = f"{count} of {total} messages were given up with {code} within {WINDOW:g} s"
        if is_engaged and not self._was_engaged:
            log.error("brake_engaged", code=code, dead_letters=count, messages=total)
        self._was_engaged = is_engaged
        return why if is_engaged else ""

    def _forget(self) -> None:
        while self._ended and self._ended[0][0] < self.clock() - WINDOW:
            _, code = self._ended.popleft()
            self._codes[code] -= 1
