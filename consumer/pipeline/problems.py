"""What is wrong with an input: every problem at once, each with its path and a way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from consumer.redaction import redacted

ROOT = "(root)"
"""The path of what concerns the whole input."""

MAX_PROBLEMS = 100
"""Problems of one input that are named; of a list of forty thousand numbers each may be one."""
MAX_LENGTH = 1000
"""Characters of a problem's path and of its message: either may quote a key or a name, however long it is."""

_ELEMENT_TYPES = frozenset({"step", "chain", "group", "chord", "map"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, and what was expected instead."""

    path: str
    message: str

    def __post_init__(self) -> None:
        for name, text in (("path", self.path), ("message", self.message)):
            if len(text) > MAX_LENGTH:
                object.__setattr__(self, name, f"{text[:MAX_LENGTH]}...")

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint naming the known name that looks most like `name`, or all known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "none are known"


def problems_of(error: ValidationError, names: Mapping[str, Iterable[str]] | None = None) -> list[Problem]:
    """Return what pydantic found, with the paths a reader of the JSON expects; of very much, only the first.

    Args:
        error: the failed validation.
        names: for a path's parent, the names known there; used to suggest the nearest for an unknown key.
    """
    details = error.errors(include_url=False)
    found = [_problem(detail, names or {}) for detail in details[:MAX_PROBLEMS]]
    more = len(details) - len(found)
    return [*found, Problem(ROOT, f"{more} more problems")] if more else found


def _problem(detail: ErrorDetails, names: Mapping[str, Iterable[str]]) -> Problem:
    path = _path(detail["loc"])
    match detail["type"]:
        case "extra_forbidden":
            parent, _, key = path.rpartition(".")
            hint = f"; {nearest(key, names[parent])}" if parent in names else ""
            return Problem(path, f"unknown key{hint}")
        case "missing":
            return Problem(path, "required, but missing")
        case "union_tag_not_found":
            return Problem(f"{path}.type", "required: one of step, chain, group, chord, map")
        case "union_tag_invalid":
            tag = str(detail.get("ctx", {}).get("tag", ""))
            return Problem(f"{path}.type", f"unknown type {tag!r}; {nearest(tag, _ELEMENT_TYPES)}")
        case _:
            return Problem(path, f"{_message(detail)}, got {_shown(detail.get('input'))}")


def _path(loc: tuple[int | str, ...]) -> str:
    """Join the location, leaving out the union tags that pydantic puts in after an element's place."""
    parts: list[str] = []
    element_before = False
    for part in loc:
        if not (element_before and part in _ELEMENT_TYPES):
            parts.append(str(part))
        element_before = isinstance(part, int) or part == "body"
    return ".".join(parts) or ROOT


def _message(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return message[:1].lower() + message[1:]


def _shown(value: object) -> str:
    try:
        text = redacted(repr(value)[:1000])  # a callback_url's query may be a secret
    except RecursionError:
        return f"a {type(value).__name__} nested very deep"
    return text if len(text) <= 80 else f"{text[:77]}..."
