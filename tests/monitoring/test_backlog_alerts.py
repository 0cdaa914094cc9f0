"""Who is woken up by a backlog: nobody while it is worked off, whoever is on duty while it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.monitoring import test_rules
from tests.monitoring.test_rules import AGE, ALERT, BACKLOG, of_worker, series

DONE = of_worker("messages_done_total")
GROWS_OLD = "0+60x180"
"""The age of what nobody takes, a value a minute."""


def seen(backlog: str, age: str, done: str) -> dict[str, str]:
    return {BACKLOG: backlog, AGE: age, DONE: done}


def told(folder: Path, name: str, values: dict[str, str], fires: dict[str, str]) -> None:
    """Check when an alert fires, and what it says: each time with the age it names, or nothing."""
    rule = ALERT[name]
    looked: list[dict[str, Any]] = []
    for after, age in fires.items():
        said = rule["annotations"]["summary"].replace("{{ $value | humanizeDuration }}", age)
        labels = {**rule["labels"], "namespace": "mlworker"}
        alert = {"exp_labels": labels, "exp_annotations": {**rule["annotations"], "summary": said}}
        looked.append({"alertname": name, "eval_time": after, "exp_alerts": [alert] if age else []})
    test_rules.asked(folder, {"interval": "1m", "input_series": series(values), "alert_rule_test": looked})


def paged(folder: Path, values: dict[str, str], fires: dict[str, str]) -> None:
    told(folder, "MlworkerBacklogOld", values, fires)


def test_a_million_photos_at_once_wake_nobody_and_are_a_ticket(tmp_path: Path) -> None:
    # Published within 17 minutes, and 400 of them done a minute.
    values = seen("0+59600x17 1012800-400x160", GROWS_OLD, "0+400x180")

    paged(tmp_path, values, {"20m": "", "35m": "", "45m": "", "60m": "", "120m": ""})
    told(tmp_path, "MlworkerBacklogWaits", values, {"60m": "", "75m": "1h 15m 0s"})


def test_bursts_that_leave_more_each_time_wake_somebody(tmp_path: Path) -> None:
    # Every half hour 1200, of which 30 a minute are done until the next: 300 more each time.
    backlog = " ".join(f"{4200 + 300 * burst}-30x29" for burst in range(8))
    values = seen(backlog, "1000+1x240", "0+30x240")

    paged(tmp_path, values, {"60m": "", "235m": ""})
    told(tmp_path, "MlworkerBacklogGrows", values, {"120m": "", "235m": "20m 35s"})


def test_a_burst_that_is_worked_off_does_not_look_like_growth(tmp_path: Path) -> None:
    values = seen("5x60 100000-100x180", "1000+1x240", "0+100x240")

    told(tmp_path, "MlworkerBacklogGrows", values, {"120m": "", "180m": "", "235m": ""})


def test_a_backfill_that_is_faster_than_the_pods_wakes_somebody(tmp_path: Path) -> None:
    values = seen("0+200x180", "0+20x180", "0+400x180")

    paged(tmp_path, values, {"60m": "", "70m": "23m 20s"})


def test_pods_that_do_nothing_wake_somebody(tmp_path: Path) -> None:
    paged(tmp_path, seen("7x180", GROWS_OLD, "5x180"), {"30m": "", "40m": "40m 0s"})
    paged(tmp_path, seen("7+1x180", GROWS_OLD, "5x180"), {"30m": "", "40m": "40m 0s"})


def test_a_message_that_does_not_come_to_an_end_while_others_do_is_a_ticket(tmp_path: Path) -> None:
    values = seen("40x180", GROWS_OLD, "0+120x180")

    paged(tmp_path, values, {"40m": "", "120m": ""})
    told(tmp_path, "MlworkerBacklogWaits", values, {"80m": "1h 20m 0s"})


def test_a_burst_that_pods_are_on_their_way_for_wakes_nobody(tmp_path: Path) -> None:
    # Half an hour of few, then 3000: more pods are at work after seven minutes.
    values = seen(
        "5x30 3000+0x6 2900-200x14 5x100", "0+0x30 0+60x21 0+0x100", "0+12x30 360+12x6 440+212x14 3408+12x100"
    )

    paged(tmp_path, values, {"45m": "", "52m": "", "60m": ""})


def test_an_outage_wakes_somebody_until_the_backlog_falls(tmp_path: Path) -> None:
    values = seen("10+0x30 0+120x60 7200-200x30", "0+0x30 0+60x90", "0+120x30 3600+0x60 3600+320x30")

    paged(tmp_path, values, {"55m": "", "75m": "44m 0s", "110m": ""})
