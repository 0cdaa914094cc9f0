"""The second look at a step's parameters, some of which cannot be read: what is wrong with the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import JsonValue, ValidationError

from consumer.pipeline.problems import Problem, nearest, problems_of, read_keys, surely
from pipeline_steps.registry import Scope, StepParams

SOME_NAME = "?"
"""A name that no model, class or label has: it stands for every name that may have been meant."""


def read_again(
    params: type[StepParams], values: Mapping[str, JsonValue], scope: Scope
) -> tuple[tuple[StepParams, ...], list[Problem]]:
    """Return what the author may have meant, and every problem, by parameter.

    A value that cannot be read may have been meant as anything, so there are several versions of the
    parameters: the default, each word of a choice, some unknown name. What is wrong in all of them is a
    problem of its own; what is wrong in some only is a consequence. There is none where nothing can be read.
    """
    keys = read_keys(values, params.model_fields)
    problems = []
    wrong: set[str] = set()
    try:
        params.model_validate(keys.values)
    except ValidationError as error:
        for problem in problems_of(error):
            parameter, dot, rest = problem.path.partition(".")
            written = keys.written.get(parameter, parameter)
            problems.append(Problem(f"{written}{dot}{rest}", problem.message))
        wrong = {str(detail["loc"][0]) for detail in error.errors(include_url=False) if detail["loc"]}
        for name in [*wrong]:
            words = [word for word in _some_values(params.model_fields[name].annotation) if word != SOME_NAME]
            meant = surely(str(keys.values.get(name)), [word for word in words if isinstance(word, str)])
            if meant is not None:
                keys.values[name] = meant
                wrong.discard(name)
    problems += [Problem(key, f"unknown key; {nearest(key, params.model_fields)}") for key in keys.unknown]

    versions = tuple(_versions(params, keys.values, wrong))
    found = [{said: None for said in version.problems(scope) if said[0] not in wrong} for version in versions]
    for name, message in found[0] if found else ():
        if all((name, message) in others for others in found):
            problems.append(Problem(keys.written.get(name, name), message))
    return versions, problems


def _versions(
    params: type[StepParams], values: Mapping[str, JsonValue], wrong: Collection[str]
) -> Iterator[StepParams]:
    """Yield the parameters with the default of every wrong one, then with each other value of each."""
    right = {name: value for name, value in values.items() if name not in wrong}
    others = [
        {name: value}
        for name in sorted(wrong)
        for value in _some_values(params.model_fields[name].annotation)
    ]
    for changed in ({}, *others):
        try:
            yield params.model_validate({**right, **changed})
        except ValidationError:
            continue  # required, or not a value of this parameter


def _some_values(annotation: Any) -> Iterator[JsonValue]:
    """Yield values of a type that may make a difference to what else is wrong."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif annotation is str:
        yield SOME_NAME
    elif annotation is bool:
        yield from (True, False)
    elif annotation is NoneType:
        yield None
    elif get_origin(annotation) not in (tuple, list, dict, set, frozenset):
        for inner in get_args(annotation):
            yield from _some_values(inner)
