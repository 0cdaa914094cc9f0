"""The dashboard's ten panels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from tests.command import ROOT
from tests.monitoring.rules import DASHBOARD, FROM_GOOGLE, metrics_in, promtool, queries, recorded

_PARTS = ("_bucket", "_sum", "_count")


def test_it_has_ten_panels_each_with_a_question_an_explanation_and_a_place_of_its_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]

    assert len(panels) == 10
    assert all(panel["title"].endswith("?") and panel["description"] for panel in panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == 10
    assert len({panel["id"] for panel in panels}) == 10
    assert all(panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for panel in panels)


def test_the_time_of_messages_leads_to_their_traces() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asking = [panel for panel in panels if any(target.get("exemplar") for target in panel["targets"])]

    assert [panel["title"] for panel in asking] == ["How long does a message take?"]
    assert all("mlworker_message_seconds_bucket" in target["expr"] for target in asking[0]["targets"])


def test_every_metric_of_it_is_exported_or_recorded() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    exported = dict(re.findall(r"^\| `(mlworker_\w+)` \| (\w+) \|", page, re.MULTILINE))
    series = {
        name + part for name, kind in exported.items() if kind in ("histogram", "summary") for part in _PARTS
    }

    for query in queries():
        assert metrics_in(query.expression), query
        assert metrics_in(query.expression) <= exported.keys() | series | recorded(), query
        # Pub/Sub's names stand in the rules alone.
        assert not metrics_in(query.expression) & FROM_GOOGLE, query


def test_what_is_coloured_or_has_an_axis_of_its_own_is_a_line_of_its_panel() -> None:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        legends = {target["legendFormat"] for target in panel["targets"]}
        assert {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]} <= legends


def test_every_query_goes_by_the_namespace_that_is_chosen() -> None:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            assert expression.count('namespace=~"$namespace"') >= len(metrics_in(expression)), expression


def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    asked = [{"record": f"query:{number}", "expr": it.expression} for number, it in enumerate(queries())]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": asked}]}))

    assert f"{len(asked)} rules found" in promtool("check", "rules", "queries.yaml", folder=tmp_path)


def _price(folder: Path, devices: dict[str, str], expected: float) -> None:
    """Check, roughly, what a photo costs; a device costs 1 an hour, half a photo is done a second."""
    [asked] = [it.expression for it in queries() if it.legend == "a photo"]
    done = 'mlworker_messages_total{namespace="mlworker",pod="a",outcome="succeeded"}'
    there = {f'mlworker_devices{{namespace="mlworker",pod="{pod}"}}': said for pod, said in devices.items()}
    test = {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": said} for name, said in {done: "0+30x60", **there}.items()
        ],
        "promql_expr_test": [
            {
                "expr": f"round({asked} / {expected!r}, 0.05)",
                "eval_time": "40m",
                "exp_samples": [{"labels": "{}", "value": 1}],
            }
        ],
    }
    (folder / "price.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    promtool("test", "rules", "price.yaml", folder=folder)


def test_a_device_costs_for_as_long_as_it_was_there(tmp_path: Path) -> None:
    hour = 1 / 1800  # over the photos of an hour

    _price(tmp_path, {"a": "1x60"}, hour)
    _price(tmp_path, {"a": "1x60", "b": "1x60"}, 2 * hour)
    # Gone for 25 of the 30 minutes; and none at all for half of them.
    _price(tmp_path, {"a": "1x60", "b": "1x14 stale _x40"}, 7 / 6 * hour)
    _price(tmp_path, {"a": "1x24 stale _x40"}, hour / 2)
