"""How large a definition may be: measured without recursion, before anything recursive reads it."""

from __future__ import annotations

import orjson

from consumer.pipeline.problems import Problem

MAX_DEPTH = 32
MAX_NODES = 512
MAX_BYTES = 256 * 1024
MAX_SETTINGS_BYTES = 64 * 1024
"""Less than of a definition: each of the steps that read a setting holds it anew."""


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
    """Return what about a value's size is over the limit, or that it is no JSON and has none."""
    try:
        size = len(orjson.dumps(raw))
    except orjson.JSONEncodeError as error:
        return [Problem(path, f"cannot be written as JSON: {str(error).lower()}")]
    if size > limit:
        return [Problem(path, f"{size} bytes of JSON; at most {limit} are allowed")]
    return []


def is_json(raw: object) -> bool:
    """Tell whether a value can be written as JSON: only then is it shallow enough to be looked through."""
    try:
        orjson.dumps(raw)
    except orjson.JSONEncodeError:
        return False
    return True


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
