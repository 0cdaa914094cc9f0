"""The second look at a definition that is wrong: everything that is, and all that can be read nevertheless.

What is misspelt is taken for what the hint says; what cannot be read is left open. So one problem hides no
other, and none is only the consequence of another. Messages that are right never come here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, get_args

from pydantic import BaseModel, JsonValue, ValidationError

from consumer.pipeline.limits import MAX_DEPTH, MAX_NODES, is_json, limit_problems
from consumer.pipeline.problems import (
    MAX_PROBLEMS,
    ROOT,
    Keys,
    Problem,
    at,
    nearest,
    problems_of,
    read_keys,
    shown,
    surely,
)
from contracts.pipeline import (
    ChainDefinition,
    ChordDefinition,
    ElementDefinition,
    GroupDefinition,
    MapDefinition,
    OnError,
    PipelineDefinition,
    StepDefinition,
)

_MODELS: Final[Mapping[str, type[BaseModel]]] = {
    "step": StepDefinition,
    "chain": ChainDefinition,
    "group": GroupDefinition,
    "chord": ChordDefinition,
    "map": MapDefinition,
}
_FIELDS = {kind: frozenset(model.model_fields) for kind, model in _MODELS.items()}
_REQUIRED = {
    kind: {name for name, info in model.model_fields.items() if info.is_required()}
    for kind, model in _MODELS.items()
}
_INNER: Final[Mapping[str, Any]] = {
    "steps": (),
    "group": {"steps": ()},
    "callback": None,
    "body": {"type": "chain", "steps": ()},
}
"""Fields that are elements, and what stands for them while the fields beside them are checked."""
_OWN: Final[Mapping[str, Any]] = {"name": "unread", "over": "segments"}
"""What stands for a required field that cannot be read, while the others are."""
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "over": get_args(MapDefinition.model_fields["over"].annotation),
    "on_error": get_args(OnError),
}
_ALL_FIELDS = frozenset().union(*_FIELDS.values())

_Raw: TypeAlias = dict[str, JsonValue]


class Unread(StepDefinition):
    """A step, or any element, of which not enough could be read: what it does is open.

    With a name only its kwargs are. No message can name a step by an empty name.
    """


@dataclass(slots=True)
class Look:
    """What was seen."""

    definition: PipelineDefinition
    """With `Unread` where something could not be read: to be checked further, never to be run."""
    problems: list[Problem]
    misspelt: Mapping[str, str]
    """Paths of misspelt keys, with the right name, to the key as it is written."""

    def as_written(self, problem: Problem) -> Problem:
        """Return a problem of the definition with its path as it is in the file."""
        return (
            Problem(_as_written(problem.path, self.misspelt), problem.message) if self.misspelt else problem
        )


def look_again(raw: object) -> Look:
    """Return every problem of a definition's limits and grammar, and what can be read of it."""
    limits = limit_problems(raw)
    looking = _Looking()
    # What is no JSON may be nested deeper than can be looked at.
    root = looking.element(raw, "", 0, "chain") if is_json(raw) else _unread()
    steps = root.steps if isinstance(root, ChainDefinition | GroupDefinition) else (_unread(),)
    definition = PipelineDefinition.model_construct(steps=steps)
    found = [Problem(_as_written(told.path, looking.misspelt), told.message) for told in looking.problems]
    if looking.may_be_more:
        found.append(Problem(ROOT, "more may be wrong than is named here"))
    return Look(definition, limits + found, looking.misspelt)


@dataclass(slots=True)
class _Looking:
    problems: list[Problem] = field(default_factory=list)
    may_be_more: bool = False
    misspelt: dict[str, str] = field(default_factory=dict)
    _nodes: int = 0

    def element(self, raw: object, path: str, depth: int, only: str | None = None) -> ElementDefinition:
        """Return what can be read of an element; where only one kind may stand, `only` says which."""
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES + 1:
            return _unread()  # the limits tell it
        if len(self.problems) >= MAX_PROBLEMS:
            self.may_be_more = True
            return _unread()
        if not isinstance(raw, dict):
            self._tell(path or ROOT, f"should be an object, got {shown(raw)}")
            return _unread()
        kind = self._kind(raw, path, only)
        if kind is None:
            return _unread()
        keys = read_keys(raw, _FIELDS[kind])
        self.misspelt.update({at(path, name): key for name, key in keys.written.items()})
        read, wrong = self._own_fields(kind, keys, path)
        inner: dict[str, ElementDefinition | tuple[ElementDefinition, ...]] = {}
        if kind in ("chain", "group"):
            inner["steps"] = self._steps(keys, path, depth)
        elif kind == "chord":
            inner["group"] = self._inner("group", keys, path, depth, "group")
            if keys.values.get("callback") is not None:
                inner["callback"] = self._inner("callback", keys, path, depth, "step")
        elif kind == "map":
            inner["body"] = self._inner("body", keys, path, depth)
        for key in keys.unknown:
            self._tell(at(path, key), f"unknown key; {nearest(key, _FIELDS[kind])}")
        return _made(read, wrong, inner)

    def _kind(self, raw: _Raw, path: str, only: str | None) -> str | None:
        """Return which kind of element it is; of one whose type is wrong or missing, by its keys."""
        key = "type" if "type" in raw else _misspelt_type(raw)
        tag = None if key is None else raw[key]
        if only is not None:
            if key is None or tag == only:
                return only
            self._tell(at(path, "type"), f"should be {only!r}, got {shown(tag)}")
        elif isinstance(tag, str) and tag in _MODELS:
            return tag
        elif key is None:
            self._tell(at(path, "type"), f"required: one of {', '.join(_MODELS)}")
        else:
            self._tell(at(path, "type"), f"unknown type {shown(tag)}; {nearest(str(tag), _MODELS)}")
        for kind in (str(tag), only or "", surely(str(tag), _MODELS) or ""):
            if kind in _MODELS and _REQUIRED[kind] <= read_keys(raw, _FIELDS[kind]).values.keys():
                return kind
        return next((kind for kind in _MODELS if _REQUIRED[kind] <= raw.keys()), None)

    def _own_fields(self, kind: str, keys: Keys, path: str) -> tuple[BaseModel, Collection[str]]:
        """Return the element with the fields beside its inner elements, and which of those are wrong."""
        model = _MODELS[kind]
        inner = {name: stand_in for name, stand_in in _INNER.items() if name in _FIELDS[kind]}
        own = {name: value for name, value in keys.values.items() if name != "type" and name not in inner}
        try:
            return model.model_validate(inner | own), ()
        except ValidationError as error:
            for problem in problems_of(error):
                self._tell(at(path, problem.path), problem.message)
            wrong = {str(detail["loc"][0]) for detail in error.errors(include_url=False)}
        right = {name: value for name, value in own.items() if name not in wrong}
        for name in wrong & _CHOICES.keys():
            meant = surely(str(own.get(name)), _CHOICES[name])
            if meant is not None:
                right[name] = meant
                wrong.discard(name)
        stand_ins = {name: _OWN[name] for name in wrong if name in _OWN}
        return model.model_validate(inner | right | stand_ins), wrong

    def _steps(self, keys: Keys, path: str, depth: int) -> tuple[ElementDefinition, ...]:
        place = at(path, "steps")
        if "steps" not in keys.values:
            self._tell(place, "required, but missing")
            return (_unread(),)
        steps = keys.values["steps"]
        if not isinstance(steps, list | tuple):
            self._tell(place, f"should be a list, got {shown(steps)}")
            return (_unread(),)
        return tuple(
            self.element(step, f"{place}.{i}", depth + 1) for i, step in enumerate(steps[: MAX_NODES + 1])
        )

    def _inner(
        self, name: str, keys: Keys, path: str, depth: int, only: str | None = None
    ) -> ElementDefinition:
        if name not in keys.values:
            self._tell(at(path, name), "required, but missing")
            return _unread()
        return self.element(keys.values[name], at(path, name), depth + 1, only)

    def _tell(self, path: str, message: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(path, message))
        else:
            self.may_be_more = True


def _made(read: BaseModel, wrong: Collection[str], inner: Mapping[str, object]) -> ElementDefinition:
    """Return the element, open where it is wrong."""
    changed = dict(inner)
    if "on_error" in wrong:
        changed["on_error"] = "skip"  # forbids less than `fail` of what comes after
    if isinstance(read, StepDefinition) and not {"name", "kwargs"}.isdisjoint(wrong):
        fields = dict(read) | changed | ({"name": ""} if "name" in wrong else {})
        return Unread.model_construct(**fields)
    if "over" in wrong:
        changed["over"] = ""
    made: ElementDefinition = read.model_copy(update=changed)  # type: ignore[assignment]
    return made


def _unread() -> Unread:
    return Unread.model_construct(name="")


def _misspelt_type(raw: _Raw) -> str | None:
    keys = read_keys(raw, _ALL_FIELDS)
    return keys.written.get("type")


def _as_written(path: str, misspelt: Mapping[str, str]) -> str:
    parts: list[str] = []
    right = ""
    for part in path.split("."):
        right = at(right, part)
        parts.append(misspelt.get(right, part))
    return ".".join(parts)
