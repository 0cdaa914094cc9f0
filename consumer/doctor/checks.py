"""What a check is: one small function, which says by its docstring what it looks at and why.

::

    @check("subscription.retry_policy", fix="gcloud pubsub subscriptions update {subscription} ...")
    async def retry_policy(site: Site) -> Findings:
        \"\"\"A message that is handed back rests before it comes again.

        Without a retry policy it comes back at once, ...
        \"\"\"
        yield ok(...)

It yields a finding for each thing it looked at. What it cannot know it lets pass as `Skip`: asking a peer may
raise that. Any other exception is reported as an error of this check, and disturbs no other.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from consumer.doctor.findings import Finding, Severity

if TYPE_CHECKING:
    from consumer.doctor.site import Site

Findings: TypeAlias = AsyncIterator[Finding]
Run: TypeAlias = "Callable[[Site], Findings]"

LIMIT = 10.0
"""Seconds a check may take."""

_NEED_A_FIX = (Severity.ERROR, Severity.WARNING)
_ABOUT = {
    "subscription": "{subscription}",
    "dead_letters": "{dead_letter_topic}",
    "results": "{results_topic}",
    "bucket": "gs://{bucket}",
}
"""What a check is about, by the part of its id before the dot, where no finding says it closer."""


class Skip(Exception):
    """The check cannot be made here; the message says why."""


class Missing(Skip):
    """What the check is about does not exist; another check says so as an error."""

    def said_of(self, name: str) -> str:
        """Return what is so, beside a name that need not be repeated."""
        return str(self).removeprefix(f"{name} ")


class Forbidden(Skip):
    """This identity may not look."""


class Unsupported(Skip):
    """The peer does not know the question, as emulators often do not."""


class Unreachable(Skip):
    """The peer does not answer, or the file cannot be used: another check says so as an error."""

    def __init__(self, see: str, detail: str = "") -> None:
        super().__init__(f"see {see}")
        self.detail = detail
        """What that check has to say."""


class Unanswered(Exception):
    """A peer that answers other questions did not answer this one."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the catalogue."""

    id: str
    what: str
    """What ought to be so."""
    why: str
    fix: str
    """What to change, with the names of things in braces."""
    needs_network: bool
    limit: float
    run: Run

    def stamped(self, finding: Finding, names: Mapping[str, str]) -> Finding:
        """Return the finding with this check's id; with its subject and fix, if it has none of its own."""
        fix = finding.fix
        if not fix and finding.severity in _NEED_A_FIX:
            fix = self.fix.format_map(names)
        group = self.id.partition(".")[0]
        subject = finding.subject or _ABOUT.get(group, group).format_map(names)
        return replace(finding, check=self.id, subject=subject, fix=fix)


def check(id: str, *, fix: str, needs_network: bool = True, limit: float = LIMIT) -> Callable[[Run], Check]:  # noqa: A002 (it is called that)
    """Make a check of a function.

    Args:
        id: stable; the part before the dot is the subject.
        fix: what to change; `{subscription}` and the like stand for the names in use.
        needs_network: whether `--offline` leaves it out.
        limit: seconds it may take.
    """

    def make(run: Run) -> Check:
        what, _, why = (inspect.getdoc(run) or "").partition("\n")
        return Check(id, what, " ".join(why.split()), fix, needs_network, limit, run)

    return make
