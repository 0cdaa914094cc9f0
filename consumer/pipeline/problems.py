"""What is wrong with an input: every problem at once, each with its path and a way out."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails

from consumer.redaction import redacted

ROOT = "(root)"
"""The path of what concerns the whole input."""

MAX_PROBLEMS = 100
"""Problems of one input that are named; of a list of forty thousand numbers each may be one."""
MAX_LENGTH = 1000
"""Characters of a problem's path and of its message: either may quote a key or a name, however long it is."""
_SURELY = 0.8
_MOST_MISSPELT = 8
"""Unknown keys of one object that are taken for known ones: each is compared with all of those."""


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

    def under(self, parent: str) -> Problem:
        """Return the problem of what is one value of a larger input, with its path in that."""
        return Problem(parent if self.path == ROOT else at(parent, self.path), self.message)


def at(parent: str, place: str) -> str:
    """Return the path of a place; the parent of the outermost ones is empty."""
    return f"{parent}.{place}" if parent else place or ROOT


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint naming the known name that looks most like `name`, or all known names."""
    names = sorted(known)
    close = _close(name, names)
    if close is not None:
        return f"did you mean {close!r}?"
    return f"known: {', '.join(names)}" if names else "none are known"


def surely(name: str, known: Iterable[str]) -> str | None:
    """Return the known name of which `name` can only be a slip of the finger."""
    return _close(name, sorted(known), _SURELY)


@dataclass(frozen=True, slots=True)
class Keys:
    """An object's keys; a misspelt one is taken for what its hint says, so that its value is looked at."""

    values: dict[str, JsonValue]
    """By the known names."""
    written: Mapping[str, str]
    """How a known name is written, where it is misspelt."""
    unknown: tuple[str, ...]
    """As they are written; of very many, only the first."""


def read_keys(raw: Mapping[str, JsonValue], known: Collection[str]) -> Keys:
    """Return what an object's keys stand for."""
    values = {name: value for name, value in raw.items() if name in known}
    unknown = tuple(islice((name for name in raw if name not in known), MAX_PROBLEMS + 1))
    written: dict[str, str] = {}
    for name in unknown[:_MOST_MISSPELT]:
        meant = _close(name, sorted(known))
        if meant is not None and meant not in values:
            values[meant] = raw[name]
            written[meant] = name
    return Keys(values, written, unknown)


def problems_of(error: ValidationError) -> list[Problem]:
    """Return what pydantic found, with the paths a reader of the JSON expects; of much, only the first."""
    details = error.errors(include_url=False)
    found = [_problem(detail) for detail in details[:MAX_PROBLEMS]]
    more = len(details) - len(found)
    return [*found, Problem(ROOT, f"{more} more problems")] if more else found


def _problem(detail: ErrorDetails) -> Problem:
    path = ".".join(map(str, detail["loc"])) or ROOT
    match detail["type"]:
        case "extra_forbidden":
            return Problem(path, "unknown key")
        case "missing":
            return Problem(path, "required, but missing")
        case _:
            return Problem(path, f"{_message(detail)}, got {shown(detail.get('input'))}")


def _message(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return message[:1].lower() + message[1:]


def shown(value: object) -> str:
    """Return a value as a problem quotes it: in part, and without secrets."""
    try:
        text = redacted(repr(value)[:1000])  # a callback_url's query may be a secret
    except RecursionError:
        return f"a {type(value).__name__} nested very deep"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _close(name: str, names: list[str], cutoff: float = 0.6) -> str | None:
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=cutoff)), None)
