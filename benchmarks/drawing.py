"""Pictures of results, as SVG: plain enough to be written by hand, small enough to be committed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH = 860
_LABELS, _PLOT, _SPACE = 350, 350, 24
"""Widths: of what stands left of a plot, of the plot, and around everything; figures stand on its right."""
_OURS, _MISSED, _PEER, _INK, _PALE = "#1f6fb4", "#c4432b", "#8b9097", "#24292f", "#d5d9de"
_SMALL, _TEXT, _HEAD = 11, 12, 14


class Mark(NamedTuple):
    """One figure beside its target, as how many times as good as that it is: 1 is as good as asked."""

    what: str
    said: str
    """The figure as a reader wants it."""
    good: float
    worst: float
    best: float
    """Both ends of its interval."""
    peers: Mapping[str, float]
    """By their names, on the same scale."""
    met: bool


class Bars(NamedTuple):
    """What several sides need for the same."""

    what: str
    seconds: Mapping[str, float]


class Line(NamedTuple):
    """A curve in a plot of its own."""

    what: str
    across: str
    up: str
    points: Sequence[tuple[float, float]]
    most: float
    """How many times its first value it may grow to."""
    met: bool


@dataclass
class Sheet:
    """A picture that is drawn from top to bottom."""

    title: str
    height: float = _SPACE
    _parts: list[str] = field(default_factory=list)

    def svg(self) -> str:
        """Return the file."""
        height = math.ceil(self.height + _SPACE / 2)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" font-family="Helvetica, Arial, sans-serif" role="img">\n'
            f"<title>{escape(self.title)}</title>\n"
            f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#ffffff"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )

    # ------------------------------------------------------------------------------------------ what it shows

    def targets(self, marks: Sequence[Mark]) -> None:
        """Draw figures beside their targets, and peers beside both."""
        low, high = _decades([v for m in marks for v in (m.worst, m.best, 1.0, *m.peers.values())])
        x = _Scale(low, high, _LABELS, _LABELS + _PLOT)
        self._heading("Times as good as the target (right of the line: met)")
        top = self.height
        self.height += 18
        for mark in marks:
            colour = _OURS if mark.met else _MISSED
            middle = self._label(mark.what)
            self._line(x(mark.worst), middle, x(mark.best), middle, colour, 3)
            for peer in mark.peers.values():
                self._circle(x(peer), middle, 4, _PEER)
            self._circle(x(mark.good), middle, 5, colour)
            self._text(_LABELS + _PLOT + 14, middle + 4, mark.said, fill=colour)
            if mark.peers:
                names = ", ".join(sorted(mark.peers, key=mark.peers.__getitem__))
                where = "grey" if len(mark.peers) == 1 else "grey, from the left"
                self._text(_LABELS, middle + 18, f"{where}: {names}", size=_SMALL, fill=_PEER)
                self.height += 10
        self._axis(x, top, self.height)
        self._line(x(1), top, x(1), self.height, _INK, 1.5)
        self.height += 26

    def seconds(self, groups: Sequence[Bars]) -> None:
        """Draw what each side needs, shorter is better."""
        low, high = _decades([v for group in groups for v in group.seconds.values()])
        x = _Scale(low, high, _LABELS, _LABELS + _PLOT)
        self._heading("Seconds (left is faster)")
        top = self.height
        self.height += 18
        for group in groups:
            middle = self._label(group.what, lines=max(2, len(group.seconds)))
            first = middle - 15 * (len(group.seconds) - 1) / 2
            for number, (side, seconds) in enumerate(group.seconds.items()):
                y, colour = first + 15 * number, _OURS if side == "ours" else _PEER
                self._circle(x(seconds), y, 5, colour)
                self._text(x(seconds) + 10, y + 4, f"{side} {_short(seconds)} s", size=_SMALL, fill=colour)
        self._axis(x, top, self.height)
        self.height += 26

    def curves(self, lines: Sequence[Line]) -> None:
        """Draw each curve in a small plot of its own, two beside each other, from zero up."""
        wide, high = 335, 110
        for number, line in enumerate(lines):
            column = number % 2
            if column == 0 and number:
                self.height += high + 92
            self._curve(line, _SPACE + column * 415, self.height + 34, wide, high)
        self.height += high + 100

    def _curve(self, line: Line, left: float, top: float, wide: float, high: float) -> None:
        xs, ys = [point[0] for point in line.points], [point[1] for point in line.points]
        allowed = ys[0] * line.most
        ceiling = max(*ys, allowed) * 1.2
        x = _Scale(min(xs), max(xs), left + 16, left + wide - 16)
        places = [(x(a), top + high - high * b / ceiling) for a, b in line.points]
        colour, limit = _OURS if line.met else _MISSED, top + high - high * allowed / ceiling
        self._text(left, top - 24, line.what, weight="bold")
        self._text(left, top - 8, line.up, size=_SMALL)
        self._line(left, top + high, left + wide, top + high, _INK, 1)
        self._line(left, limit, left + wide, limit, _PEER, 1, dash="4 4")
        self._text(left + wide + 5, limit + 4, f"{line.most:g} times", size=_SMALL, fill=_PEER)
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        self._parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (a, b), value in zip(places, line.points, strict=True):
            self._circle(a, b, 4, colour)
            beside = b - 9 if b > top + 0.7 * high else b + 17  # not on the axis
            self._text(a, beside, _short(value[1]), size=_SMALL, fill=colour, anchor="middle")
            self._text(a, top + high + 15, _short(value[0]), size=_SMALL, anchor="middle")
        self._text(left + wide / 2, top + high + 30, line.across, size=_SMALL, anchor="middle")

    # ------------------------------------------------------------------------------------------------ strokes

    def _heading(self, text: str) -> None:
        self._text(_SPACE, self.height + 8, text, size=_HEAD, weight="bold")
        self.height += 24

    def _label(self, text: str, lines: int = 2) -> float:
        """Write what a row is about on its left, make room for it, and return its middle."""
        wrapped = textwrap.wrap(text, 56, max_lines=3, placeholder=" …")
        room = 15 * max(lines, len(wrapped))
        middle = self.height + room / 2
        first = middle - 15 * (len(wrapped) - 1) / 2
        for number, part in enumerate(wrapped):
            self._text(_SPACE, first + 15 * number + 4, part)
        self.height += room + 10
        return middle

    def _axis(self, x: _Scale, top: float, bottom: float) -> None:
        for value in x.ticks():
            self._line(x(value), top, x(value), bottom, _PALE, 1, under=True)
            self._text(x(value), bottom + 14, _short(value), size=_SMALL, anchor="middle")

    def _line(
        self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float, *,
        dash: str = "", under: bool = False,
    ) -> None:  # fmt: skip
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        part = (
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width:g}"{dashed}/>'
        )
        self._parts.insert(0 if under else len(self._parts), part)

    def _circle(self, x: float, y: float, radius: float, colour: str) -> None:
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}" stroke="#ffffff"/>'
        )

    def _text(
        self, x: float, y: float, text: str, *,
        size: int = _TEXT, fill: str = _INK, anchor: str = "start", weight: str = "normal",
    ) -> None:  # fmt: skip
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
            f'font-weight="{weight}">{escape(text)}</text>'
        )


class _Scale(NamedTuple):
    """Places on an axis whose steps are factors."""

    low: float
    high: float
    left: float
    right: float

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.left + min(1.0, max(0.0, share)) * (self.right - self.left)

    def ticks(self) -> list[float]:
        """Return the round values of the axis: 1, 2, 5, 10 ..., fewer where there are many decades."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1, 2, 5) if len(decades) <= 4 else (1,)
        found = [step * 10.0**decade for decade in decades for step in steps]
        return [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """Return ends of an axis that have room for all values."""
    low, high = min(values) / 1.25, max(values) * 1.25
    return min(low, high / 4), max(high, low * 4)


def _short(value: float) -> str:
    """Return a number in few characters."""
    if value >= 10_000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
