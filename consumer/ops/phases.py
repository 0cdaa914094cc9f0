"""How long the parts of a start take."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

_TICKS = 100
"""A second, in /proc."""


class Phases:
    """Seconds that each phase took. Some go on beside others: together they may be longer than the whole."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = Lock()

    @contextmanager
    def time(self, phase: str, without: Collection[str] = ()) -> Iterator[None]:
        """Add to a phase the time that the context lasts, on any thread.

        Args:
            phase: its name.
            without: phases inside of this one that are not counted to it.
        """
        began, before = time.perf_counter(), self.seconds
        try:
            yield
        finally:
            after = self.seconds
            inside = sum(after.get(name, 0.0) - before.get(name, 0.0) for name in without)
            self.add(phase, time.perf_counter() - began - inside)

    def add(self, phase: str, seconds: float) -> None:
        """Add to a phase."""
        with self._lock:
            self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    @property
    def seconds(self) -> Mapping[str, float]:
        """What each phase took so far, in the order in which the first of each ended."""
        with self._lock:
            return dict(self._seconds)


def since_exec() -> float:
    """Return the seconds since this process was started, to a hundredth; 0 where the system does not say."""
    try:
        # The name, the second field, may hold anything, spaces and brackets too.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / _TICKS
    except (OSError, AttributeError):
        return 0.0
