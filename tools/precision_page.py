"""The figures of docs/precision.md, as docs/precision.json has them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_DOCS = Path(__file__).parents[1] / "docs"
FIGURES = _DOCS / "precision.json"
PAGE = _DOCS / "precision.md"

_WORDS = {
    "things": ("things `exact` finds, or looks at", "{:.0f}"),
    "matched": ("of those, found by `fast` too", "{:.2%}"),
    "extra": ("found by `fast` only", "{:.0f}"),
    "pictures_with_another_count": ("scenes with another count", "{:.0f}"),
    "mean_iou": ("IoU of the two, mean", "{:.4f}"),
    "least_iou": ("IoU of the two, least", "{:.3f}"),
    "agreement": ("same class", "{:.2%}"),
    "mean_score_difference": ("difference of scores, mean", "{:.5f}"),
    "largest_score_difference": ("difference of scores, largest", "{:.4f}"),
    "prompts": ("boxes SAM was asked about", "{:.0f}"),
    "mean_iou_for_a_box": ("IoU of its two masks, mean", "{:.4f}"),
    "boxes_alike": ("boxes whose two masks have IoU ≥ 0.9", "{:.1%}"),
    "least_iou_for_a_box": ("IoU of its two masks, least", "{:.3f}"),
}
"""What each figure is called, and how it is written."""


def rendered(text: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page with the tables of these figures."""
    marked = re.compile(r"(<!-- generated: parity -->\n).*?(<!-- end -->)", re.DOTALL)
    return marked.sub(lambda found: f"{found[1]}{_tables(rows)}{found[2]}", text)


def _tables(rows: Sequence[Mapping[str, Any]]) -> str:
    tables = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        lines = [
            f"**`{model}`** (weights {mine[0]['sha256'][:8]}), {mine[0]['scenes']} scenes",
            "",
            "| | " + " | ".join(f"`{row['dtype']}`" for row in mine) + " |",
            "|---|" + "---:|" * len(mine),
        ]
        for name, (words, form) in _WORDS.items():
            if name in mine[0]:
                lines.append(f"| {words} | " + " | ".join(form.format(row[name]) for row in mine) + " |")
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)
