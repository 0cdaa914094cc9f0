"""The page on security names tests that exist, and its code does what it says."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.outbound.callback import hmac_signer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text()
KEY, BODY, NOW = b"0123456789abcdef0123456789abcdef", b'{"sessionId": "s", "x": "\xc3\xb1"}', 1_800_000_000.5


def test_every_test_named_on_the_page_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    defined = {
        node.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert len(named) > 60
    assert named - defined == set()


def test_every_threat_names_a_test() -> None:
    rows = [line for line in PAGE.partition("## Threats")[2].splitlines() if line.startswith("| ")]
    threats = [row for row in rows if not row.startswith("| threat |")]

    assert len(threats) > 25
    assert [row for row in threats if "`test_" not in row] == []


@pytest.fixture(scope="module")
def is_genuine() -> Callable[..., bool]:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/security.md", "exec"), names)
    return names["is_genuine"]  # type: ignore[no-any-return]


def signed() -> dict[str, str]:
    return dict(asyncio.run(hmac_signer(KEY, clock=lambda: NOW)("https://b.example/", BODY)))


@pytest.mark.parametrize("late", [-299, 0, 299])
def test_the_code_of_the_page_accepts_what_the_worker_signs(
    is_genuine: Callable[..., bool], late: float
) -> None:
    assert is_genuine(KEY, signed(), BODY, now=NOW + late)


@pytest.mark.parametrize(
    ("changed", "how"),
    [
        ({}, {"body": BODY + b" "}),
        ({}, {"key": KEY[::-1]}),
        ({}, {"now": NOW + 302}),
        ({}, {"now": NOW - 302}),
        ({"X-MLWorker-Timestamp": str(int(NOW) + 1)}, {}),
        ({"X-MLWorker-Timestamp": ""}, {}),
        ({"X-MLWorker-Timestamp": "now"}, {}),
        ({"X-MLWorker-Timestamp": "\u0661" * 10}, {}),
        ({"X-MLWorker-Timestamp": "9" * 5000}, {}),
        ({"X-MLWorker-Signature": ""}, {}),
        ({"X-MLWorker-Signature": "sha256=" + "0" * 64}, {}),
        ({"X-MLWorker-Signature": "\u00f1"}, {}),
    ],
)
def test_the_code_of_the_page_refuses_what_it_should(
    is_genuine: Callable[..., bool], changed: dict[str, str], how: dict[str, Any]
) -> None:
    given = {"key": KEY, "body": BODY, "now": NOW, **how}

    assert not is_genuine(given["key"], signed() | changed, given["body"], now=given["now"])
