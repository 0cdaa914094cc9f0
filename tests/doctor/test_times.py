"""Time arithmetic."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.doctor.findings import Severity
from tests.doctor.sites import Good, said, worst

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("check", "settings", "severity", "words"),
    [
        ("time.lease", {"lease_seconds": 30}, Severity.WARNING, "LEASE_SECONDS: 30 s"),
        ("time.callback", {"backend_callback_timeout": 31.0}, Severity.WARNING, "at most 30 s"),
        (
            "time.drain",
            {"drain_timeout": 320.0},
            Severity.ERROR,
            "up to 320 s; the pod is killed after 330 s",
        ),
        ("time.drain", {"grace_period": 319.0}, Severity.ERROR, "terminationGracePeriodSeconds"),
        ("time.drain", {"drain_mode": "abort", "grace_period": 19.0}, Severity.ERROR, "at least 20 s"),
        ("time.drain", {"grace_period": 3000.0}, Severity.WARNING, "autoscaler"),
        ("time.pipeline", {"pipeline_timeout": 301.0}, Severity.INFO, "start over"),
        ("time.hold", {"hold_timeout": 60.0}, Severity.WARNING, "at least 120 s"),
    ],
)
async def test_times_that_do_not_fit_are_found(
    good: Good, check: str, settings: dict[str, Any], severity: Severity, words: str
) -> None:
    findings = await good.ask(check, **settings)

    assert worst(findings) is severity
    assert words in said(findings)


@pytest.mark.parametrize(
    ("check", "settings"),
    [
        ("time.lease", {"pipeline_timeout": 86_400.0}),  # a run may outlast its lease
        ("time.drain", {"grace_period": 320.0}),
        ("time.drain", {"drain_mode": "abort", "grace_period": 20.0}),
        ("time.pipeline", {"pipeline_timeout": 300.0}),
        ("time.pipeline", {"drain_mode": "abort"}),
    ],
)
async def test_of_times_that_fit_nothing_is_said(good: Good, check: str, settings: dict[str, Any]) -> None:
    assert worst(await good.ask(check, **settings)) is Severity.OK


async def test_a_finding_names_the_setting_what_was_found_what_was_expected_and_what_to_do(
    good: Good,
) -> None:
    [finding] = await good.ask("time.drain", drain_timeout=320.0)

    assert finding.as_json() == {
        "check": "time.drain",
        "severity": "error",
        "subject": "DRAIN_TIMEOUT",
        "found": "up to 320 s; the pod is killed after 330 s",
        "expected": "DRAIN_TIMEOUT + 20 s ≤ GRACE_PERIOD",
        "fix": "a smaller DRAIN_TIMEOUT, or a longer terminationGracePeriodSeconds and GRACE_PERIOD with it",
    }
