"""The table of defects names tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_named_in_the_table_of_defects_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/defects.md").read_text()))
    defined = {
        node.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert len(named) > 30
    assert named - defined == set()
