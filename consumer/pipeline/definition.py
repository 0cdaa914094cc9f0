"""Reading a definition from JSON: its limits first, then its grammar."""

from __future__ import annotations

import orjson
from pydantic import ValidationError

from consumer.pipeline.problems import Problem, problems_of
from contracts.pipeline import (
    ChordDefinition,
    GroupDefinition,
    MapDefinition,
    PipelineDefinition,
    StepDefinition,
)

MAX_DEPTH = 32
MAX_NODES = 512
MAX_BYTES = 256 * 1024
MAX_SETTINGS_BYTES = 64 * 1024
"""Less than of a definition: each of the steps that read a setting holds it anew."""

_KEYS = frozenset(
    name
    for model in (StepDefinition, GroupDefinition, ChordDefinition, MapDefinition)
    for name in model.model_fields
)


def read_definition(raw: object) -> tuple[PipelineDefinition | None, list[Problem]]:
    """Return the definition, or None and every problem of its shape.

    The limits are checked without recursion, so that no nesting, however deep, reaches a recursive reader.
    """
    problems = limit_problems(raw)
    if problems:
        return None, problems
    try:
        return PipelineDefinition.model_validate(raw), []
    except ValidationError as error:
        return None, definition_problems(error)


def definition_problems(error: ValidationError) -> list[Problem]:
    """Return the problems of a definition's grammar; unknown keys get the nearest known one."""
    parents = {
        ".".join(path.path.split(".")[:-1]): _KEYS
        for path in problems_of(error)
        if path.message == "unknown key"
    }
    return problems_of(error, parents)


def limit_problems(raw: object) -> list[Problem]:
    """Return what about the definition's depth, node count or size is over the limits."""
    depth, nodes = _measure(raw)
    problems = []
    if depth > MAX_DEPTH:
        problems.append(Problem("steps", f"elements are nested more than {MAX_DEPTH} deep"))
    if nodes > MAX_NODES:
        problems.append(Problem("steps", f"at least {nodes} elements; at most {MAX_NODES} are allowed"))
    return problems or size_problems(raw, "steps")


def size_problems(raw: object, path: str, limit: int = MAX_BYTES) -> list[Problem]:
    """Return what about a value's size is over the limit; values that are no JSON have none."""
    try:
        size = len(orjson.dumps(raw))
    except orjson.JSONEncodeError as error:
        return [Problem(path, f"cannot be written as JSON: {str(error).lower()}")]
    if size > limit:
        return [Problem(path, f"{size} bytes of JSON; at most {limit} are allowed")]
    return []


def _measure(raw: object) -> tuple[int, int]:
    """Return how deep elements nest and how many there are, looking no further once either is too much."""
    deepest = nodes = 0
    waiting: list[tuple[object, int]] = [(raw, 0)]
    while waiting and deepest <= MAX_DEPTH:
        value, depth = waiting.pop()
        deepest = max(deepest, depth)
        if not isinstance(value, dict):
            continue
        inner = [value[key] for key in ("group", "callback", "body") if isinstance(value.get(key), dict)]
        if isinstance(value.get("steps"), list):
            inner += value["steps"]
        nodes += len(inner)
        if nodes > MAX_NODES:
            break
        waiting += [(child, depth + 1) for child in inner]
    return deepest, nodes
