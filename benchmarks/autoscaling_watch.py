"""What there is to see of a site that is only reckoned, with the delays there are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.autoscaling_site import Site

COUNTED, SHOWN, RULES = 60, 120, 30
"""Seconds: how often Pub/Sub counts, how much later it says so, and how often rules are evaluated."""
GUESS = 2.0
"""The same as in `k8s/monitoring/scaler.yaml`, as are the next ones; tests compare them."""
BACKLOG_RULES, LOAD_RULES = 2, 1
"""Rules that a figure goes through before the last one: each reads what was recorded a turn ago."""
_LOOKS_BACK = 120
"""Seconds that a pause is remembered for."""
_MEETS = 60
"""Seconds after which a pod that begins has met an outage: it had messages, and could not deliver them."""
_FEW = 20


@dataclass(frozen=True, slots=True)
class Seen:
    """The backlog as Pub/Sub shows it, the rest as workers export it."""

    shown: int
    """The backlog, to whoever reads it without rules."""
    backlog: int
    age: float
    busy: float
    """Of devices, over two minutes."""
    slots_busy: int
    pods: int
    """That are to stay, also those that have only been ordered."""
    per_message: float
    is_held: bool
    """Whether pods pull nothing, of those that can tell."""
    protected: int


class Watcher:
    """Sees a site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._counts: list[tuple[float, int, float]] = [(-math.inf, 0, 0.0)]
        self._totals: list[tuple[float, float, int]] = []
        self._loads: list[tuple[float, int]] = []
        self._last_out = -math.inf

    def count(self, now: float) -> None:
        """Let Pub/Sub count."""
        waiting = self._site.waiting
        age = now - min((message.published for message in waiting), default=now)
        self._counts.append((now, len(waiting), age))

    def look(self, now: float) -> Seen:
        """Scrape workers, and evaluate rules."""
        site = self._site
        self._totals.append((now, site.busy, len(site.done)))
        recent = self._since(now - 120)
        busy = (site.busy - recent[1]) / max(now - recent[0], RULES)
        self._loads.append((busy, sum(len(pod.hand) for pod in site.pods)))
        busy, slots_busy = self._loads[-1 - LOAD_RULES :][0]
        _, backlog, age = self._counted(now - BACKLOG_RULES * RULES)
        staying = [pod for pod in site.pods if not pod.is_leaving]
        return Seen(
            shown=self._counted(now)[1],
            backlog=backlog,
            age=age,
            busy=busy,
            slots_busy=slots_busy,
            pods=len(staying),
            per_message=self._per_message(now),
            is_held=self._is_held(now),
            protected=sum(pod.is_to_be_protected for pod in staying),
        )

    def _counted(self, now: float) -> tuple[float, int, float]:
        return next(it for it in reversed(self._counts) if it[0] <= now - SHOWN)

    def _is_held(self, now: float) -> bool:
        # The peer is everybody's: of those that can tell nobody says otherwise.
        if self._site.is_out and any(pod.ready <= now - _MEETS for pod in self._site.pods):
            self._last_out = now
        return now - self._last_out <= _LOOKS_BACK

    def _per_message(self, now: float) -> float:
        for window in (1800, 86400):
            _, busy, done = self._since(now - window)
            if len(self._site.done) - done >= _FEW:
                return max(0.05, (self._site.busy - busy) / (len(self._site.done) - done))
        return GUESS

    def _since(self, when: float) -> tuple[float, float, int]:
        return next((it for it in self._totals if it[0] >= when), self._totals[-1])
