"""The picture and the table of docs/autoscaling.md."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from benchmarks.autoscaling import Run

DOCS = Path(__file__).parent.parent / "docs"
PAGE, PICTURE = DOCS / "autoscaling.md", DOCS / "images" / "autoscaling.svg"
BEGIN, END = "<!-- autoscaling: begin -->", "<!-- autoscaling: end -->"

_COLOURS = ("#1f6fb4", "#58a35c", "#c4432b", "#8b9097")
_WIDTH, _ROW, _PLOT, _LEFT, _GAP = 900, 150, 375, 50, 50


def write_picture(runs: Sequence[Run]) -> None:
    """Write docs/images/autoscaling.svg."""
    PICTURE.write_text(picture(runs))


def write_page(runs: Sequence[Run], seed: int) -> None:
    """Put the table into docs/autoscaling.md."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(runs, seed)}\n{END}{after}")


def table(runs: Sequence[Run], seed: int) -> str:
    """Return the figures as Markdown."""
    rows = "\n".join(
        f"| {run.scenario} | {run.side} | {_span(run.age_p50)} | {_span(run.age_p99)} | "
        f"{run.pods_mean:.1f}, {run.pods_most} | {run.gpu_hours:.1f} | {run.busy_share:.0%} | "
        f"{run.lost_gpu_hours:.2f} | {run.changes} |"
        for run in runs
    )
    return (
        f"`python -m benchmarks.autoscaling --write --seed {seed}`; three hours each:\n\n"
        "| scenario | scaled by | p50 | p99 | pods: mean, most | GPU-hours | busy | lost | changes |\n"
        f"|---|---|---:|---:|---:|---:|---:|---:|---:|\n{rows}\n\n"
        "![the oldest message's age and the number of pods, over time](images/autoscaling.svg)"
    )


def picture(runs: Sequence[Run]) -> str:
    """Return the picture: for each scenario the oldest message's age, and beside it the pods."""
    return "\n".join(_elements(runs)) + "\n"


def _elements(runs: Sequence[Run]) -> Iterator[str]:
    scenarios = list(dict.fromkeys(run.scenario for run in runs))
    sides = list(dict.fromkeys(run.side for run in runs))
    height = 60 + (_ROW + 30) * len(scenarios)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="11" role="img">'
    )
    yield "<title>Age of the oldest message, and pods, by what is scaled on</title>"
    yield f'<rect width="{_WIDTH}" height="{height}" rx="6" fill="white"/>'
    for place, side in enumerate(sides):
        left, colour = _LEFT + 190 * place, _COLOURS[place % len(_COLOURS)]
        yield f'<rect x="{left}" y="16" width="14" height="4" fill="{colour}"/>'
        yield f'<text x="{left + 20}" y="22">{escape(side)}</text>'
    for row, scenario in enumerate(scenarios):
        top, these = 60 + (_ROW + 30) * row, [run for run in runs if run.scenario == scenario]
        minutes = [[(at / 60, age / 60) for at, age in run.ages] for run in these]
        pods = [[(at / 60, count) for at, count in run.pods] for run in these]
        yield from _plot(_LEFT, top, f"{scenario}: the oldest message's age, in minutes", minutes)
        yield from _plot(_LEFT + _PLOT + _GAP, top, f"{scenario}: pods", pods)
    yield "</svg>"


def _plot(
    left: float, top: float, title: str, lines: Sequence[Sequence[tuple[float, float]]]
) -> Iterator[str]:
    high = _ROW - 40
    across = math.ceil(max(at for line in lines for at, _ in line)) or 1
    most = max(1.0, *(value for line in lines for _, value in line))
    yield f'<text x="{left}" y="{top - 6}" font-weight="bold">{escape(title)}</text>'
    for part in (0, 0.5, 1):
        y = top + high * (1 - part)
        yield f'<line x1="{left}" y1="{y:.1f}" x2="{left + _PLOT}" y2="{y:.1f}" stroke="#d5d9de"/>'
        yield f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{most * part:.3g}</text>'
    for part in (0, 1 / 3, 2 / 3, 1):
        x = left + _PLOT * part
        yield f'<text x="{x:.1f}" y="{top + high + 15}" text-anchor="middle">{across * part:.0f} min</text>'
    for place, line in reversed(list(enumerate(lines))):
        points = " ".join(
            f"{left + _PLOT * at / across:.1f},{top + high * (1 - value / most):.1f}" for at, value in line
        )
        colour = _COLOURS[place % len(_COLOURS)]
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
