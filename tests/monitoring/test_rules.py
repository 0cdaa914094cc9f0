"""The rules of alerts and of the scaler: what they are made of, and when they say what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import autoscaling, autoscaling_watch
from tests.command import ROOT
from tests.monitoring.rules import (
    ALERTS,
    FOR_GOOGLE,
    FROM_GOOGLE,
    SCALER,
    groups,
    metrics_in,
    promtool,
    recorded,
    rules,
)

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "alert_cases.yaml").read_text())
ALERT = {rule["alert"]: rule for rule in rules(ALERTS)}
RUNBOOKS = ROOT / "docs" / "runbooks"
METRICS_PAGE = ROOT / "docs" / "metrics.md"

BACKLOG = (
    "pubsub_googleapis_com:subscription_num_undelivered_messages"
    '{monitored_resource="pubsub_subscription",subscription_id="mlworker-requests"}'
)
AGE = BACKLOG.replace("num_undelivered_messages", "oldest_unacked_message_age")


def of_worker(metric: str, pod: str = "a", more: str = "") -> str:
    return f'mlworker_{metric}{{namespace="mlworker",pod="{pod}"{more}}}'


BUSY = of_worker("device_busy_seconds_total", more=',model="m"')


# ----------------------------------------------------------------------------------------- what is there


def test_googles_manifest_has_the_groups_of_the_operators() -> None:
    assert groups(FOR_GOOGLE) == groups(ALERTS), "see the head of k8s/monitoring/alerts-google.yaml"


def test_every_metric_in_a_rule_is_one_of_a_worker_or_of_a_rule_or_of_googles() -> None:
    # docs/metrics.md lists exactly what a worker exports: tests/end_to_end/test_metrics.py sees to that.
    exported = set(re.findall(r"^\| `(mlworker_\w+)` \|", METRICS_PAGE.read_text(), re.MULTILINE))
    known = exported | recorded() | FROM_GOOGLE

    unknown = {
        rule.get("alert") or rule["record"]: metrics_in(rule["expr"]) - known
        for rule in rules(SCALER, ALERTS)
    }

    assert {name: metrics for name, metrics in unknown.items() if metrics} == {}
    assert metrics_in("rate(mlworker_gone_total[5m])") - known == {"mlworker_gone_total"}


def test_only_the_group_of_names_speaks_of_googles_metrics_and_of_names() -> None:
    names, *others = groups(SCALER, ALERTS)

    assert names["name"] == "mlworker-site"
    for rule in (rule for group in others for rule in group["rules"]):
        assert not metrics_in(rule["expr"]) & FROM_GOOGLE
        assert 'namespace="' not in rule["expr"]


@pytest.mark.parametrize("name", ALERT)
def test_an_alert_has_a_runbook_of_its_own(name: str) -> None:
    annotations = ALERT[name]["annotations"]
    words = re.findall("[A-Z][a-z]+", name.removeprefix("Mlworker"))
    page = "-".join(words).lower() + ".md"

    assert annotations["runbook_url"].endswith(f"/docs/runbooks/{page}")
    text = (RUNBOOKS / page).read_text()
    assert f"`{name}`" in text
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["What it means", "Look", "Do", "It is over when"]
    assert ALERT[name]["labels"]["severity"] in ("page", "ticket")


def test_every_runbook_is_of_an_alert_and_in_the_list() -> None:
    pages = {Path(rule["annotations"]["runbook_url"]).name for rule in ALERT.values()}
    index = (RUNBOOKS / "README.md").read_text()

    assert {page.name for page in RUNBOOKS.glob("*.md")} == pages | {"README.md"}
    assert all(f"({page})" in index for page in pages)


def test_the_simulation_reckons_with_the_figures_of_the_rules() -> None:
    expression = {rule["record"]: rule["expr"] for rule in rules(SCALER)}

    assert expression["mlworker:device_seconds_per_message:guess"] == f"vector({autoscaling_watch.GUESS:g})"
    for_backlog = expression["mlworker:pods_for_backlog"]
    assert f"* {autoscaling.UTILISATION} * {autoscaling.TARGET:g})" in for_backlog
    assert f"clamp(mlworker:backlog_age_seconds / {autoscaling.PATIENCE:g}, 1, 2)" in for_backlog
    assert expression["mlworker:pods_for_load"].endswith(f") / {autoscaling.UTILISATION}")
    assert _rules_between("mlworker:pods_wanted", FROM_GOOGLE, expression) == autoscaling_watch.BACKLOG_RULES
    load = {"mlworker_slots_busy"}
    assert _rules_between("mlworker:pods_wanted", load, expression) == autoscaling_watch.LOAD_RULES


def _rules_between(name: str, origin: set[str], expression: dict[str, str]) -> int:
    """How many other rules the slowest way of a figure to a rule goes through; far below 0 without a way."""
    read = metrics_in(expression[name])
    ways = [
        1 + _rules_between(inner, origin, expression)
        for inner in read & expression.keys()
        if inner not in _SLOW
    ]
    return max([*ways, *([0] if read & origin else [])], default=-99)


_SLOW = {"mlworker:device_seconds_per_message", "mlworker:devices_per_pod"}
"""What changes within half an hour, or with a release: half a minute more does not matter."""


# --------------------------------------------------------------------------------------------- what they say


def asked(folder: Path, *tests: dict[str, Any]) -> None:
    """Have promtool evaluate the rules over series."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups(SCALER, ALERTS)}))
    whole = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "group_eval_order": [group["name"] for group in groups(SCALER, ALERTS)],
        "tests": list(tests),
    }
    (folder / "tests.yaml").write_text(yaml.safe_dump(whole))
    promtool("test", "rules", "tests.yaml", folder=folder)


def series(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"series": name, "values": str(said)} for name, said in values.items()]


def case(name: str, kind: str) -> dict[str, Any]:
    told = next(case[kind] for case in CASES if case["alert"] == name)
    expected = []
    if kind == "fires":
        rule = ALERT[name]
        annotations = {**rule["annotations"], "summary": told["summary"]}
        labels = {**rule["labels"], **told["labels"]}
        expected = [{"exp_labels": labels, "exp_annotations": annotations}]
    looked = {"eval_time": told["after"], "alertname": name, "exp_alerts": expected}
    return {"interval": "1m", "input_series": series(told["series"]), "alert_rule_test": [looked]}


def test_prometheus_accepts_the_rules(tmp_path: Path) -> None:
    for file in (SCALER, ALERTS, FOR_GOOGLE):
        (tmp_path / file.name).write_text(yaml.safe_dump({"groups": groups(file)}))
        promtool("check", "rules", "--lint=all", "--lint-fatal", file.name, folder=tmp_path)


def test_every_alert_has_its_cases() -> None:
    assert [case["alert"] for case in CASES] == list(ALERT)


def test_every_alert_fires_when_it_should(tmp_path: Path) -> None:
    asked(tmp_path, *(case(name, "fires") for name in ALERT))


def test_every_alert_is_quiet_when_it_should_be(tmp_path: Path) -> None:
    asked(tmp_path, *(case(name, "quiet") for name in ALERT))


def test_a_case_that_is_wrong_is_found(tmp_path: Path) -> None:
    wrong = case("MlworkerBrakeEngaged", "fires")
    wrong["input_series"] = case("MlworkerBrakeEngaged", "quiet")["input_series"]

    with pytest.raises(AssertionError, match="MlworkerBrakeEngaged"):
        asked(tmp_path, wrong)


def wanted(
    folder: Path, values: dict[str, str], expected: dict[str, float | None], after: str = "40m"
) -> None:
    """Check what rules record."""
    looked = [
        {
            "expr": name,
            "eval_time": after,
            "exp_samples": []
            if value is None
            else [{"labels": f'{name}{{namespace="mlworker"}}', "value": value}],
        }
        for name, value in expected.items()
    ]
    asked(folder, {"interval": "1m", "input_series": series(values), "promql_expr_test": looked})


PODS = {
    of_worker("devices"): "1x60",
    of_worker("slots"): "5x60",
    of_worker("slots_busy"): "1x60",
    of_worker("draining"): "0+0x60",
    of_worker("ready"): "1x60",
    of_worker("pulling_paused"): "0+0x60",
    of_worker("runs_to_protect"): "0+0x60",
    of_worker("messages_done_total"): "0+10x60",
    BUSY: "0+30x60",
}
"""One pod, whose device is busy for half of the time, with 3 s for each message."""


def test_a_backlog_is_worth_what_its_messages_have_needed_lately(tmp_path: Path) -> None:
    wanted(
        tmp_path,
        {BACKLOG: "800x60", AGE: "100x60", **PODS},
        {
            "mlworker:device_seconds_per_message": 3,
            "mlworker:backlog_device_seconds": 2400,
            "mlworker:pods_for_backlog": 10,  # 2400 / (300 * 0.8)
            "mlworker:pods_for_load": 0.625,  # half a device, at 80 %
            "mlworker:pods_wanted": 10.625,
            "mlworker:pods_to_protect": 0,
        },
    )


def test_a_backlog_that_grows_old_is_worth_more_but_not_more_than_twice(tmp_path: Path) -> None:
    wanted(tmp_path, {BACKLOG: "800x60", AGE: "900x60", **PODS}, {"mlworker:pods_for_backlog": 15})
    wanted(tmp_path, {BACKLOG: "800x60", AGE: "9000x60", **PODS}, {"mlworker:pods_for_backlog": 20})


def test_slots_count_where_pipelines_have_little_for_a_device(tmp_path: Path) -> None:
    pods = {**PODS, of_worker("slots_busy"): "4x60", BUSY: "0+0x60"}

    wanted(
        tmp_path,
        {BACKLOG: "4x60", **pods},
        {"mlworker:pods_for_load": 1, "mlworker:device_seconds_per_message": 0.05},
    )


def test_from_zero_a_single_message_is_enough_to_begin_and_the_guess_says_how_many_more(
    tmp_path: Path,
) -> None:
    wanted(tmp_path, {BACKLOG: "1x60"}, {"mlworker:pods_wanted": 2 / 240, "mlworker:pods_to_protect": 0})
    wanted(tmp_path, {BACKLOG: "600x60"}, {"mlworker:pods_wanted": 5})
    wanted(tmp_path, {BACKLOG: "0+0x60"}, {"mlworker:pods_wanted": 0})


def test_after_a_scale_to_zero_the_last_day_says_what_a_message_needs(tmp_path: Path) -> None:
    gone = {
        name: "0+30x30 _x300" if name == BUSY else "0+10x30 _x300"
        for name in (BUSY, of_worker("messages_done_total"))
    }

    wanted(tmp_path, {BACKLOG: "80x400", **gone}, {"mlworker:device_seconds_per_message": 3}, after="5h")


def test_without_pubsubs_figures_there_is_no_number(tmp_path: Path) -> None:
    wanted(tmp_path, PODS, {"mlworker:pods_wanted": None})


def test_pods_with_runs_that_a_stop_would_cost_are_counted_each_once(tmp_path: Path) -> None:
    runs = {
        of_worker("runs_to_protect", pod): f"{count}+0x60" for pod, count in {"a": 3, "b": 1, "c": 0}.items()
    }

    wanted(tmp_path, {BACKLOG: "0+0x60", **PODS, **runs}, {"mlworker:pods_to_protect": 2})


def test_another_namespace_is_another_worker(tmp_path: Path) -> None:
    others = {name.replace('"mlworker"', '"other"'): "1000x60" for name in PODS}

    wanted(
        tmp_path,
        {BACKLOG: "800x60", AGE: "100x60", **PODS, **others},
        {"mlworker:backlog_device_seconds": 2400},
    )
