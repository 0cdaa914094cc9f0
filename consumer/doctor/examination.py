"""Running the checks: all at once, each within its time, none in the way of another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import chain
from types import ModuleType

from consumer.doctor import (
    buckets,
    callback,
    clock,
    consistency,
    lifecycle,
    models,
    outgoing,
    permissions,
    pipelines,
    routes,
    subscription,
)
from consumer.doctor.checks import Check, Skip, Unanswered
from consumer.doctor.findings import Finding, Severity, error, skipped
from consumer.doctor.site import Site

_SUBJECTS: Sequence[ModuleType] = (
    consistency,
    subscription,
    outgoing,
    permissions,
    buckets,
    lifecycle,
    pipelines,
    routes,
    models,
    callback,
    clock,
)

CATALOGUE: Sequence[Check] = tuple(
    value for module in _SUBJECTS for value in vars(module).values() if isinstance(value, Check)
)
"""Every check, in the order they are shown."""


async def examine(site: Site, checks: Iterable[Check] = CATALOGUE) -> list[Finding]:
    """Return what the checks find, in their order; when offline, those that need no network."""
    chosen = [check for check in checks if site.online or not check.needs_network]
    found = await asyncio.gather(*(run(check, site) for check in chosen))
    return list(chain.from_iterable(found))


async def run(check: Check, site: Site) -> list[Finding]:
    """Return what one check finds; what it found before it failed counts too."""
    findings: list[Finding] = []
    try:
        async with asyncio.timeout(check.limit):
            async for finding in check.run(site):
                findings.append(finding)  # noqa: PERF401 (what was found before it fails must be kept)
    except Skip as why:
        findings.append(skipped("", str(why)))
    except Unanswered as why:
        findings.append(error("", str(why), "an answer", "try again; if it stays so, look at the service"))
    except TimeoutError:
        findings.append(
            error(
                "", f"not through within {check.limit:g} s", "an answer", "look at the network, and try again"
            )
        )
    except Exception as broken:  # noqa: BLE001 (reported, and the other checks' findings with it)
        said = " ".join(str(broken).split())
        findings.append(
            error(
                "",
                f"check failed: {type(broken).__name__}: {said}",
                "a check that works",
                "report it as a bug",
            )
        )
    return [check.stamped(finding, site.names) for finding in findings]


def has_errors(findings: Iterable[Finding]) -> bool:
    """Tell whether anything must be changed."""
    return any(finding.severity is Severity.ERROR for finding in findings)
