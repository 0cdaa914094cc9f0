"""The gallery of a demo: one HTML page with the annotated pictures and their numbers, nothing fetched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from contracts.result import ProcessingResult

SIZES = ("S", "M", "L", "XL")
_SIZE, _SPECIES = "size_", "species_"


@dataclass(frozen=True, slots=True)
class Shown:
    """A photo as tables and the gallery show it; paths are relative to the gallery."""

    source: str
    tenant_id: str
    trigger: str
    status: str
    reason: str
    milliseconds: int
    expected: int | None
    result: ProcessingResult | None
    picture: str | None
    thumbnail: str | None
    result_file: str | None

    @property
    def count(self) -> int | None:
        """How many plants were counted."""
        return self.numbers.get("total_count")

    @property
    def numbers(self) -> Mapping[str, int]:
        """The result's estimations."""
        return {one.type: round(one.value) for one in self.result.estimations} if self.result else {}

    def of_kind(self, prefix: str) -> Mapping[str, int]:
        """Return the estimations whose names start with `prefix`, under the rest of their names."""
        return {
            name.removeprefix(prefix): value
            for name, value in self.numbers.items()
            if name.startswith(prefix) and value
        }

    @property
    def kinds(self) -> Mapping[str, int]:
        """What a classifier took plants for, most frequent first; the species dealt out are not its word."""
        said = self.result.classifications if self.result else ()
        labels = Counter(one.label for one in said if f"{_SPECIES}{one.label}" not in self.numbers)
        return dict(labels.most_common())


def gallery_page(shown: Sequence[Shown], seconds: float) -> str:
    """Return the page."""
    template = files("consumer.local").joinpath("pages/gallery.html").read_text()
    return template.replace("{{totals}}", _totals(shown, seconds)).replace(
        "{{cards}}", "\n".join(_card(one) for one in shown)
    )


def _totals(shown: Sequence[Shown], seconds: float) -> str:
    known = [one for one in shown if one.expected is not None and one.count is not None]
    facts = [
        (str(len(shown)), "photo" if len(shown) == 1 else "photos"),
        (str(sum(one.count or 0 for one in shown)), "plants counted"),
    ]
    if known:
        facts.append((str(sum(one.expected or 0 for one in known)), "plants expected"))
        exact = sum(one.count == one.expected for one in known)
        facts.append((f"{exact} of {len(known)}", "counts exact"))
    facts.append((f"{seconds:.1f} s", "from first message to last ack"))
    failed = sum(one.status not in ("succeeded", "partial") for one in shown)
    if failed:
        facts.append((str(failed), "failed"))
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for value, name in facts)


def _card(one: Shown) -> str:
    body = "".join(_details(one))
    return (
        f'<article class="{escape(one.status)}">{_picture(one)}<div class="text">'
        f"<h2>{escape(one.source)}</h2>{body}</div></article>"
    )


def _picture(one: Shown) -> str:
    if one.picture is None:
        return '<div class="none" aria-hidden="true">no picture</div>'
    size = one.result.image if one.result else None
    # Known sizes keep the page still while pictures load.
    shape = f' width="{size.width}" height="{size.height}"' if size else ""
    return (
        f'<a href="{escape(one.picture)}"><img src="{escape(one.thumbnail or one.picture)}"{shape} '
        f'loading="lazy" alt="{escape(one.source)} with {one.count or 0} plants marked"></a>'
    )


def _details(one: Shown) -> Iterator[str]:
    if one.count is not None:
        yield f'<p class="count"><b>{one.count}</b> plants{_compared(one)}</p>'
    if one.reason:
        yield f'<p class="reason">{escape(one.reason)}</p>'
    sizes = one.of_kind(_SIZE)
    if sizes:
        bars = "".join(
            f'<span class="{size}" style="flex-grow:{sizes[size]}"></span>' for size in SIZES if size in sizes
        )
        legend = "".join(f'<li class="{size}">{size} <b>{sizes.get(size, 0)}</b></li>' for size in SIZES)
        yield f'<div class="bar" aria-hidden="true">{bars}</div><ul class="sizes">{legend}</ul>'
    yield from _listed("species", one.of_kind(_SPECIES))
    yield from _listed("looks like", one.kinds)
    if one.result and one.result.segments:
        yield from _listed("segments", Counter(segment.label for segment in one.result.segments))
    facts = [one.tenant_id, f"by {one.trigger}", f"{one.milliseconds} ms"]
    status = f'<span class="status">{escape(one.status)}</span>'
    items = [status, *map(escape, facts)]
    if one.result_file:
        items.append(f'<a href="{escape(one.result_file)}">JSON</a>')
    yield f'<ul class="facts">{"".join(f"<li>{item}</li>" for item in items)}</ul>'


def _compared(one: Shown) -> str:
    if one.expected is None:
        return ""
    is_close = one.count is not None and abs(one.count - one.expected) <= max(1, one.expected * 0.1)
    return f' <span class="{"near" if is_close else "far"}">{one.expected} expected</span>'


def _listed(title: str, numbers: Mapping[str, int]) -> Iterator[str]:
    if numbers:
        items = "".join(f"<li>{escape(name)} <b>{count}</b></li>" for name, count in numbers.items())
        yield f'<div class="chips"><span>{escape(title)}</span><ul>{items}</ul></div>'
