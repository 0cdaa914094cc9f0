"""The figures of a soak for docs/reliability.md, and its plot: messages over time, with the faults marked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from tests.faults.soak import Findings

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE, PLOT = DOCS / "reliability.md", DOCS / "images" / "soak.svg"
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 900, 420, 60, 20, 140
_COLOURS = {
    "kill -9": "#c0392b", "SIGTERM": "#e67e22", "SIGSTOP": "#8e44ad", "broker away": "#2c3e50",
    "backend away": "#2980b9", "backend refuses": "#5dade2", "answers lost": "#16a085",
    "bucket refuses": "#7d6608", "results refused": "#6c3483", "leases end": "#7f8c8d",
    "acks lost": "#a04000",
}  # fmt: skip


def write_report(findings: Findings) -> None:
    """Write both."""
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    PLOT.write_text(plot(findings))
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(findings)}\n{END}{after}")


def table(findings: Findings) -> str:
    """The figures as Markdown."""
    rows = "\n".join(f"| {name} | {figure} |" for name, figure in findings.figures.items())
    return (
        f"`make soak MINUTES={findings.minutes:g} SEED={findings.seed}` on two cores that did other work "
        f"too:\n\n| | |\n|---|---:|\n{rows}\n\n![messages acked over time, with every fault](images/soak.svg)"
    )


def plot(findings: Findings) -> str:
    """The plot, by hand: one line and some bars are no reason for a plotting library."""
    return "\n".join(_elements(findings)) + "\n"


def _elements(findings: Findings) -> Iterator[str]:
    samples = findings.samples
    seconds = max(samples[-1].at, 1.0)
    most = max(samples[-1].acked, 1)
    bottom = _HEIGHT - _BOTTOM

    def x(at: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 20) * at / seconds

    def y(count: float) -> float:
        return bottom - (bottom - _TOP) * count / most

    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12" role="img">'
    )
    faults = len(findings.disturbances)
    yield f"<title>{most} messages acked in {seconds:.0f} s under {faults} faults</title>"
    yield f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    kinds = [kind for kind in _COLOURS if any(d.name == kind for d in findings.disturbances)]
    for disturbance in findings.disturbances:
        width = max(x(disturbance.end) - x(disturbance.start), 1.5)
        yield (
            f'<rect x="{x(disturbance.start):.1f}" y="{_TOP}" width="{width:.1f}" height="{bottom - _TOP}" '
            f'fill="{_COLOURS[disturbance.name]}" fill-opacity="0.35"/>'
        )
    points = " ".join(f"{x(sample.at):.1f},{y(sample.acked):.1f}" for sample in samples)
    yield f'<polyline points="{points}" fill="none" stroke="black" stroke-width="2"/>'
    for part in range(5):
        count = most * part // 4
        yield f'<text x="{_LEFT - 6}" y="{y(count) + 4:.1f}" text-anchor="end">{count}</text>'
        at = seconds * part / 4
        yield f'<text x="{x(at):.1f}" y="{bottom + 18}" text-anchor="middle">{at:.0f} s</text>'
    for place, kind in enumerate(kinds):
        left, top = _LEFT + (place % 4) * 205, bottom + 40 + (place // 4) * 24
        count = sum(d.name == kind for d in findings.disturbances)
        square = 'width="14" height="14" fill-opacity="0.5"'
        yield f'<rect x="{left}" y="{top}" {square} fill="{_COLOURS[kind]}"/>'
        yield f'<text x="{left + 20}" y="{top + 12}">{escape(kind)}: {count}</text>'
    yield f'<text x="{_LEFT}" y="{_TOP - 6}">messages acked; seed {findings.seed}</text>'
    yield "</svg>"
