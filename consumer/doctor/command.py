"""`mlworker doctor`, as it is typed."""

from __future__ import annotations

import os
import sys
import threading
from typing import Annotated

import typer

from consumer.help import examples
from consumer.terminal import DONE, FAILED, console, exit_with, print_json

_CLOSING = 3.0
"""Seconds that closing may take once everything is said: a peer that hangs must not keep people waiting."""


def add_doctor(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "mlworker doctor --offline                         settings and files only",
            "kubectl exec deploy/mlworker -- mlworker doctor   as the worker itself",
            "mlworker doctor --json | jq '.[] | select(.severity == \"error\")'",
            note="It reads the environment of `mlworker run`. Exit codes: 0 no errors, 1 errors were found, "
            "2 the settings cannot be read (the reason is on stderr).",
        ),
    )(doctor)


def doctor(
    json_output: Annotated[bool, typer.Option("--json", help="Print the findings as a JSON list.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only what needs no network: settings and files.")
    ] = False,
) -> None:
    """Check the whole set-up before it hurts, and say what to change.

    Times, subscriptions, topics, permissions, buckets, pipelines, models, the backend, the clock.

    Nothing is changed, but for a small object in BUCKET that is written and deleted again.
    """
    exit_with(diagnose(json_output=json_output, offline=offline))


async def diagnose(*, json_output: bool, offline: bool) -> int:
    """Run the checks, print what they found, and return the exit code.

    Raises:
        InvalidSettings: there is nothing to check.
    """
    from consumer.doctor.examination import CATALOGUE, examine, has_errors
    from consumer.doctor.printing import print_findings
    from consumer.doctor.site import Site
    from consumer.settings import load_settings

    async with Site(load_settings(), online=not offline) as site:
        findings = await examine(site)
        if json_output:
            print_json([finding.as_json() for finding in findings])
        else:
            print_findings(console(), findings, sum(check.needs_network for check in CATALOGUE) * offline)
        code = FAILED if has_errors(findings) else DONE
        _leave_within(_CLOSING, code)
    return code


def _leave_within(seconds: float, code: int) -> None:
    """End the process with `code` if it has not ended by itself by then: threads that hang would keep it."""
    sys.stdout.flush()
    timer = threading.Timer(seconds, os._exit, (code,))
    timer.daemon = True
    timer.start()
