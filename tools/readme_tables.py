"""Write the generated tables of the README: `python -m tools.readme_tables [--check]`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from consumer.reference import settings_reference, step_reference

README = Path(__file__).parents[1] / "README.md"


def rendered(text: str) -> str:
    """Return the README with its tables as the code has them now."""
    for name, table in (("steps", _steps()), ("settings", _settings())):
        marked = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = marked.sub(lambda found, table=table: f"{found[1]}{table}{found[2]}", text)
    return text


def _steps() -> str:
    rows = ["| step | reads | writes | what it does |", "|---|---|---|---|"]
    rows += [
        f"| `{step.name}` | {step.reads} | {step.writes} | {step.summary} |" for step in step_reference()
    ]
    return "\n".join(rows) + "\n"


def _settings() -> str:
    rows = ["| variable | default | |", "|---|---|---|"]
    rows += [
        f"| `{one.name}` | {one.shown if one.required else f'`{one.shown}`'} | {one.description} |"
        for one in settings_reference()
    ]
    return "\n".join(rows) + "\n"


def main() -> int:
    """Write the tables, or with --check only say whether they are up to date."""
    text = README.read_text()
    new = rendered(text)
    if "--check" in sys.argv[1:]:
        return int(new != text)
    README.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
