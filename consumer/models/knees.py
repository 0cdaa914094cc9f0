"""How large a batch is worth waiting for: on a CPU eight pictures take as long as eight times one.

There a large batch gains nothing, and whoever comes meanwhile waits for all of it. So now and then what would
be a full batch is taken in two halves; where these are as quick for each item, halves it is from then on.
Where they are slower, as on a GPU, that is tried ever more seldom.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

_WORTH = 0.02
"""Seconds of a batch below which nobody minds waiting for it."""
_AS_QUICK = 1.05
"""What an item of a half may take, of what one of the whole takes."""
_FIRST_TRY, _SELDOM = 2, 4
"""Full batches before the first try, and how many times as many before each further one."""
_LATEST = 0.3
_KEYS = 1000


@dataclass(slots=True)
class _Knee:
    most: int
    """What a batch may have, as far as is known."""
    per_item: float = 0.0
    """Seconds of an item in full batches; the latest count most."""
    full: int = 0
    """Full batches since the last try."""
    wait: int = _FIRST_TRY
    halves: list[float] = field(default_factory=list)
    """Seconds of an item in the halves of the present try."""
    trying: bool = False


class Knees:
    """The sizes batches are worth having, by what they are of. For several threads it has to be locked."""

    def __init__(self) -> None:
        self._known: dict[tuple[Hashable, int], _Knee] = {}
        """By key and by what is allowed, which is less for a while where memory ran out."""

    def most(self, key: Hashable, allowed: int, waiting: int) -> int:
        """Return how many items a batch should have.

        Args:
            key: what it is of.
            allowed: the most it may have.
            waiting: how many items wait for the device: with few, there is nothing to choose.
        """
        knee = self._known.get((key, allowed))
        if knee is None:
            return allowed
        if not knee.trying and knee.most > 1 and knee.full >= knee.wait and waiting >= knee.most:
            knee.trying, knee.halves = True, []
        return (knee.most + 1) // 2 if knee.trying else knee.most

    def note(self, key: Hashable, size: int, allowed: int, seconds: float) -> None:
        """Note how long a batch took that was answered."""
        knee = self._known.get((key, allowed))
        if knee is None:
            if len(self._known) == _KEYS:
                del self._known[next(iter(self._known))]
            knee = self._known[key, allowed] = _Knee(allowed)
        each = seconds / size
        if knee.trying:
            if size == (knee.most + 1) // 2:
                knee.halves.append(each)
                if len(knee.halves) == 2:
                    self._decide(knee, size)
        elif size == knee.most:
            knee.per_item = each if not knee.full else knee.per_item + _LATEST * (each - knee.per_item)
            knee.full += seconds >= _WORTH

    def _decide(self, knee: _Knee, half: int) -> None:
        """Keep to halves if they are as quick; the slower of them counts, so that chance decides nothing."""
        knee.trying, knee.full = False, 0
        if max(knee.halves) <= _AS_QUICK * knee.per_item:
            knee.most, knee.wait = half, _FIRST_TRY
        else:
            knee.wait *= _SELDOM
