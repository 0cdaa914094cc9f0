"""The findings on a terminal: a line each, what is wrong last, where it is seen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from consumer.doctor.findings import Finding, Severity, counted
from consumer.terminal import printable

_STYLES = {
    Severity.ERROR: "bold red",
    Severity.WARNING: "yellow",
    Severity.INFO: "cyan",
    Severity.OK: "green",
    Severity.SKIPPED: "dim",
}
_ORDER = (Severity.OK, Severity.SKIPPED, Severity.INFO, Severity.WARNING, Severity.ERROR)
_INDENT = 9


def print_findings(console: Console, findings: Sequence[Finding], left_out: int = 0) -> None:
    """Print them, the worst last, and how many there are of each severity.

    Args:
        console: where to.
        findings: in the order of the catalogue.
        left_out: how many checks were not made because they need the network.
    """
    for severity in _ORDER:
        of_it = [finding for finding in findings if finding.severity is severity]
        lines = _skipped(of_it) if severity is Severity.SKIPPED else map(_line, of_it)
        for line in lines:
            # Unbroken: commands are copied from here, and lines searched for.
            console.print(line, soft_wrap=True)
    console.print(_summary(findings, left_out), soft_wrap=True)


def _line(finding: Finding) -> Text:
    line = _start(finding.severity).append(finding.check, "bold").append("  ")
    line.append(f"{printable(finding.subject)}: " if finding.subject else "")
    line.append(printable(finding.found))
    if finding.expected:
        line.append(f"\n{'':{_INDENT}}expected  ", "dim").append(printable(finding.expected))
    if finding.fix:
        line.append(f"\n{'':{_INDENT}}fix       ", "dim").append(printable(finding.fix), "bold")
    return line


def _skipped(findings: Sequence[Finding]) -> list[Text]:
    """Return a line for each reason: a peer that is away keeps many checks from being made."""
    checks: dict[str, list[str]] = {}
    for finding in findings:
        checks.setdefault(finding.found, []).append(finding.check)
    return [
        _start(Severity.SKIPPED).append(f"{printable(why)}: {', '.join(dict.fromkeys(ids))}", "dim")
        for why, ids in checks.items()
    ]


def _start(severity: Severity) -> Text:
    return Text(f"{severity:<{_INDENT}}", _STYLES[severity]).append("", "default")


def _summary(findings: Sequence[Finding], left_out: int) -> Text:
    counts = counted(findings)
    words = [
        f"{count} {severity}{'s' if severity in (Severity.ERROR, Severity.WARNING) and count != 1 else ''}"
        for severity, count in counts.items()
        if count
    ]
    more = f"; {left_out} checks that need the network were left out" if left_out else ""
    return Text(f"\n{', '.join(words) or 'nothing was looked at'}{more}", "bold")
