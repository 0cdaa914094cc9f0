"""The second look at a message that is wrong: everything that is, and what can be read nevertheless."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from pydantic import BaseModel, ValidationError

from consumer.pipeline.limits import MAX_SETTINGS_BYTES, is_json, limit_problems, size_problems
from consumer.pipeline.parameters import MAX_UNREAD
from consumer.pipeline.problems import Problem, problems_of, read_keys, surely
from consumer.pipeline.second_look import Look, look_again
from contracts.base import JsonObject
from contracts.request import NamedPipelineRequest, ProcessingRequest

_DEFINITION = "pipeline_definition"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is around the pipeline."""

    values: JsonObject
    """By the right names."""
    written: Mapping[str, str]
    """How a name is written, where it is misspelt."""
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]

    def place(self, name: str) -> str:
        """Return the path of a field as it is in the message."""
        return self.written.get(name, name)


@dataclass(frozen=True, slots=True)
class Misread:
    """A request that is wrong."""

    problems: tuple[Problem, ...]
    envelope: Envelope
    look: Look | None
    """Of its pipeline, if it has one."""


def look_at_request(raw: JsonObject) -> Misread:
    """Return every problem of a request's shape, of its envelope and of its pipeline."""
    envelope = look_at_envelope(ProcessingRequest, raw)
    if _DEFINITION not in envelope.values:
        return Misread(envelope.problems, envelope, None)
    look = look_again(envelope.values[_DEFINITION])
    inner = [problem.under(envelope.place(_DEFINITION)) for problem in look.problems]
    return Misread((*envelope.problems, *inner), envelope, look)


def look_at_envelope(model: type[ProcessingRequest | NamedPipelineRequest], raw: JsonObject) -> Envelope:
    """Return every problem of a message but those of its pipeline.

    A key that nobody knows is a warning. It is a problem only where it must be a required one, misspelt.
    """
    required = {name for name, info in model.model_fields.items() if info.is_required()}
    keys = read_keys(raw, model.model_fields)
    written = {name: key for name, key in keys.written.items() if name in required}
    values = {name: value for name, value in keys.values.items() if name in raw or name in written}
    problems = [Problem(key, f"unknown key; did you mean {name!r}?") for name, key in written.items()]
    checked = values | ({_DEFINITION: {"steps": []}} if _DEFINITION in values else {})
    try:
        model.model_validate(checked)
    except ValidationError as error:
        for problem in problems_of(error):
            name, dot, rest = problem.path.partition(".")
            problems.append(Problem(f"{written.get(name, name)}{dot}{rest}", problem.message))
    problems += size_problems(values.get("settings"), "settings", MAX_SETTINGS_BYTES)
    others = [name for name in raw if name not in values and name not in written.values()]
    return Envelope(values, written, tuple(problems), unread("", others, model))


def nesting_problems(raw: JsonObject) -> list[Problem]:
    """Return that a message, though it can be read, is too deep to be named in a problem or hashed."""
    if is_json(raw):
        return []
    limits = [problem.under(_DEFINITION) for problem in limit_problems(raw.get(_DEFINITION))]
    return limits or [Problem("(message)", "nested too deep to be read")]


def unread(parent: str, unknown: Iterable[str], model: type[BaseModel] | None = None) -> tuple[str, ...]:
    """Return a warning for each key that nothing reads; of very many, only for the first."""
    known = () if model is None else tuple(model.model_fields)
    names = sorted(unknown)
    shown = tuple(
        f"{parent}{name[:80]}: unknown key, not read{_hint(name[:80], known)}" for name in names[:MAX_UNREAD]
    )
    more = len(names) - len(shown)
    return (*shown, f"{parent}...: {more} more unknown keys, not read") if more else shown


@lru_cache(maxsize=256)
def _hint(name: str, known: tuple[str, ...]) -> str:
    """Return what may have been meant; a newer backend sends the same unknown key with every message."""
    meant = surely(name, known)
    return "" if meant is None else f"; did you mean {meant!r}?"
