"""What a check has to say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is; only errors make the command fail."""

    ERROR = "error"
    """Messages are lost, stand still or come twice, now or at the next fault."""
    WARNING = "warning"
    """It works, and will hurt one day."""
    INFO = "info"
    """Good to know."""
    OK = "ok"
    SKIPPED = "skipped"
    """It could not be looked at; `found` says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    severity: Severity
    subject: str
    """A resource's name, or a setting's."""
    found: str
    expected: str = ""
    fix: str = ""
    """What to change: a command to copy, or a setting."""
    check: str = ""
    """The id of the check, filled in when it is run."""

    def as_json(self) -> dict[str, str]:
        """Return it for machines."""
        return {
            "check": self.check,
            "severity": self.severity.value,
            "subject": self.subject,
            "found": self.found,
            "expected": self.expected,
            "fix": self.fix,
        }


def error(subject: str, found: str, expected: str, fix: str = "") -> Finding:
    """Return a finding that makes the command fail; without `fix`, the check's own is shown."""
    return Finding(Severity.ERROR, subject, found, expected, fix)


def warning(subject: str, found: str, expected: str, fix: str = "") -> Finding:
    """Return a finding that will hurt one day; without `fix`, the check's own is shown."""
    return Finding(Severity.WARNING, subject, found, expected, fix)


def info(subject: str, found: str, expected: str = "") -> Finding:
    """Return a finding that is good to know."""
    return Finding(Severity.INFO, subject, found, expected)


def ok(subject: str, found: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(Severity.OK, subject, found)


def skipped(subject: str, why: str) -> Finding:
    """Return a finding that nothing could be found out."""
    return Finding(Severity.SKIPPED, subject, why)


def counted(findings: Iterable[Finding]) -> dict[Severity, int]:
    """Return how many findings there are of each severity, the worst first."""
    counts = dict.fromkeys(Severity, 0)
    for finding in findings:
        counts[finding.severity] += 1
    return counts


def seconds(value: float | timedelta) -> str:
    """Return a duration as people say it.

    >>> seconds(90), seconds(7200), seconds(604800), seconds(0.5)
    ('90 s', '2 h', '7 d', '0.5 s')
    """
    total = value.total_seconds() if isinstance(value, timedelta) else value
    for size, unit in ((86400, "d"), (3600, "h")):
        if total >= 2 * size or total == size:
            return f"{total / size:.3g} {unit}"
    return f"{total:g} s"
