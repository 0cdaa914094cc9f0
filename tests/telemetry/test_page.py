"""docs/telemetry.md lists the spans, attributes and variables that there are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from consumer.ops import otlp
from consumer.settings import Settings
from tests.command import ROOT

PAGE = (ROOT / "docs" / "telemetry.md").read_text()
_OF_A_KIND = {
    "step": "step NAME",
    "ask": "ask MODEL",
    "batch": "batch MODEL",
    "process": "process SUBSCRIPTION",
}


def calls(*names: str) -> Iterator[ast.Call]:
    """The calls of these functions in what traces."""
    for file in sorted((ROOT / "consumer").rglob("*.py")):
        if "consumer.ops.tracing import" not in (text := file.read_text()):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                function = node.func
                called = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
                if called in names:
                    yield node


def spans() -> set[str]:
    found = set()
    for call in calls("span", "_with_bucket", "start_span"):
        match next(iter(call.args), None):
            case ast.Constant(value=str(name)):
                found.add(name)
            case ast.JoinedStr(values=[ast.Constant(value=str(kind)), *_]) if kind.strip() in _OF_A_KIND:
                found.add(_OF_A_KIND[kind.strip()])
    return found


def test_the_page_lists_exactly_the_spans_there_are() -> None:
    listed = re.findall(r"^\| `([^`]+)` \|", section("### Spans", "### Attributes"), re.MULTILINE)

    assert sorted(listed) == sorted(spans())


def test_the_page_names_every_attribute_by_convention() -> None:
    told = section("### Attributes", "### From")

    assert [name for name in otlp._NAMES.values() if f"`{name}`" not in told] == []


def test_the_page_names_every_attribute_of_ours() -> None:
    told = section("### Attributes", "### From")
    given = {
        keyword.arg
        for call in calls("span", "happened", "note")
        for keyword in call.keywords
        if keyword.arg and keyword.arg not in otlp._NAMES
    }

    assert {"path", "bytes", "outcome", "peer"} <= given
    assert [name for name in sorted(given) if f"`mlworker.{name}`" not in told] == []


def test_the_page_names_every_variable() -> None:
    variables = {name.upper() for name in Settings.model_fields if name.startswith("otel_")}

    assert len(variables) == 4
    assert set(re.findall(r"^\| `(OTEL_\w+)` \|", PAGE, re.MULTILINE)) == variables


def section(begin: str, end: str) -> str:
    return PAGE.partition(begin)[2].partition(end)[0]
