"""Which dead letters are meant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from consumer.dead_letters.envelope import DeadLetter, subject_of

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


@dataclass(frozen=True, slots=True)
class Filters:
    """What all of a letter's traits must be; of several values of one kind any will do."""

    ids: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    classes: frozenset[str] = frozenset()
    steps: tuple[str, ...] = ()
    """Paths; each stands for everything below it too."""
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None
    """In the error or the body, upper and lower case alike."""

    @property
    def are_none(self) -> bool:
        """Whether every letter is meant."""
        return self == Filters()

    def match(self, letter: DeadLetter) -> bool:
        """Tell whether the letter is meant; one whose original cannot be read is not taken for a tenant's."""
        return (
            (not self.ids or bool(self.ids & letter.names))
            and (not self.codes or letter.code in self.codes)
            and (not self.classes or letter.failure_class in self.classes)
            and (not self.steps or self._is_at_step(letter.step_path))
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
            and (not self.tenants or self._is_a_tenants(letter))
            and (self.text is None or _contains(letter, self.text.casefold()))
        )

    def may_match_unread(self, letter: DeadLetter) -> bool:
        """Tell whether only its original, which cannot be had, could say if the letter is meant."""
        return bool(letter.unreadable) and bool(self.tenants or self.text)

    def _is_at_step(self, path: str | None) -> bool:
        return path is not None and any(
            path == step or path.startswith((f"{step}.", f"{step}[")) for step in self.steps
        )

    def _is_a_tenants(self, letter: DeadLetter) -> bool:
        if letter.original is None:
            return False
        if letter.original.is_notification:
            # Which folder names the tenant, only the worker's routes file could tell.
            folders = letter.original.attributes.get("objectId", "").split("/")[:-1]
            return not self.tenants.isdisjoint(folders)
        return subject_of(letter.original).tenant in self.tenants


def moment_of(text: str, now: datetime) -> datetime:
    """Return the moment that a person means: `2h` ago, or an ISO time, in UTC if it names no zone.

    Raises:
        ValueError: it is neither.
    """
    ago = _AGO.fullmatch(text.strip())
    if ago:
        return now - timedelta(seconds=float(ago[1]) * _UNITS[ago[2]])
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text!r}: expected an age such as 90s, 15m, 2h, 3d, or an ISO time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _contains(letter: DeadLetter, text: str) -> bool:
    if text in letter.message.casefold():
        return True
    return letter.original is not None and text in letter.original.data.decode("utf-8", "replace").casefold()
