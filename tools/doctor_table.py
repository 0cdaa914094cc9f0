"""Write the table of checks in docs/doctor.md: `python -m tools.doctor_table [--check]`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from consumer.doctor.checks import Check
from consumer.doctor.examination import CATALOGUE

DOCUMENT = Path(__file__).parents[1] / "docs" / "doctor.md"

_NAMES = (
    "project", "subscription", "requests_topic", "results_topic", "dead_letter_topic",
    "dead_letter_subscription", "bucket",
)  # fmt: skip


def rendered(text: str) -> str:
    """Return the document with its table as the code has it now."""
    marked = re.compile(r"(<!-- generated: checks -->\n).*?(<!-- end -->)", re.DOTALL)
    return marked.sub(lambda found: f"{found[1]}{_table()}{found[2]}", text)


def _table() -> str:
    rows = ["| check | what ought to be so | why | what to change |", "|---|---|---|---|"]
    rows += [
        f"| `{check.id}`{'' if check.needs_network else ' ¹'} | {check.what} | {check.why} | {_fix(check)} |"
        for check in CATALOGUE
    ]
    return "\n".join(rows) + "\n\n¹ made with `--offline` too.\n"


def _fix(check: Check) -> str:
    fix = check.fix.format_map({name: name.upper() for name in _NAMES})
    return f"`{fix}`" if fix.startswith("gcloud ") else fix


def main() -> int:
    """Write the table, or with --check only say whether it is up to date."""
    text = DOCUMENT.read_text()
    new = rendered(text)
    if "--check" in sys.argv[1:]:
        return int(new != text)
    DOCUMENT.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
