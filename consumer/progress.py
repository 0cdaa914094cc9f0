"""How far a message has come, and how long it will still take: what a drain decides by."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum, auto


class Stage(Enum):
    """Where a message is."""

    WAITING = auto()
    """Leased, but nothing expensive has begun: for its turn, or for another worker's claim."""
    RUNNING = auto()
    DELIVERING = auto()
    """It has a result, or has failed; what is left is short."""


@dataclass
class Progress:
    """One message's."""

    stage: Stage = Stage.WAITING
    expected_end: float | None = None
    """Of the run, by the monotonic clock; None if no pipeline like it has run here yet."""

    def is_hopeless(self, end: float, *, is_abort: bool) -> bool:
        """Tell whether waiting for it until `end` is no use."""
        match self.stage:
            case Stage.WAITING:
                return True
            case Stage.RUNNING:
                return is_abort or (self.expected_end is not None and self.expected_end > end)
            case Stage.DELIVERING:
                return False


@dataclass
class Durations:
    """How long pipelines have taken, by what they are; the latest runs count most."""

    clock: Callable[[], float] = time.monotonic
    _seconds: dict[Hashable, float] = field(default_factory=dict)

    def expected_end(self, pipeline: Hashable) -> float | None:
        """Return when a run that starts now will be over."""
        seconds = self._seconds.get(pipeline)
        return None if seconds is None else self.clock() + seconds

    def note(self, pipeline: Hashable, seconds: float) -> None:
        """Take note of a run."""
        known = self._seconds.pop(pipeline, seconds)
        self._seconds[pipeline] = 0.7 * known + 0.3 * seconds
        if len(self._seconds) > _KNOWN_PIPELINES:
            del self._seconds[next(iter(self._seconds))]  # the one that has not run for longest


_KNOWN_PIPELINES = 1000
