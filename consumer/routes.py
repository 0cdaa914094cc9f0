"""Which bucket notifications start which pipeline: the operator's routes file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import Field, JsonValue, ValidationError

from consumer.pipeline.definition import read_definition
from consumer.pipeline.parse import InvalidPipeline, parse
from consumer.pipeline.problems import Problem, problems_of
from contracts.base import Contract
from contracts.pipeline import PipelineDefinition
from pipeline_steps.models import ModelCatalogue
from pipeline_steps.registry import StepRegistry

_RESERVED = re.compile(r"(^|/)(processed|results|models|dead-letters|[a-z0-9_-]+_thumbnails)/")


class InvalidRoutes(ValueError):
    """A routes file that cannot be used; the message lists every problem."""


class RouteEntry(Contract):
    """One route as the file has it."""

    bucket: str
    prefix: str
    """Template of the folder; `{tenant_id}` stands for one path segment, and is required."""
    match: str = ".*"
    """Regular expression the rest of the name must match as a whole."""
    pipeline: dict[str, JsonValue]
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    callback: bool | str = True
    """Whether the backend is called back, or the url to call."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route that can be taken."""

    bucket: str
    pattern: re.Pattern[str]
    definition: PipelineDefinition
    raw: Mapping[str, JsonValue]
    settings: Mapping[str, JsonValue]
    callback: bool | str

    def tenant_of(self, bucket: str, name: str) -> str | None:
        """Return whose object it is, if this route takes it."""
        found = self.pattern.fullmatch(name) if bucket == self.bucket else None
        return found["tenant_id"] if found else None


@dataclass(frozen=True, slots=True)
class Routes:
    """Every route, in the file's order; the first that fits is taken."""

    routes: Sequence[Route] = ()

    def find(self, bucket: str, name: str) -> tuple[Route, str] | None:
        """Return the route for an object and its tenant; None when no route takes it."""
        for route in self.routes:
            tenant = route.tenant_of(bucket, name)
            if tenant is not None:
                return route, tenant
        return None


def is_our_own(name: str) -> bool:
    """Tell whether an object lies where only the worker writes, or is a folder's placeholder."""
    return name.endswith("/") or _RESERVED.search(name) is not None


def check_routes(
    routes: Routes, steps: StepRegistry, models: ModelCatalogue, buckets: Collection[str] | None = None
) -> None:
    """Return if every route's pipeline can run here, and its photos may be read.

    Args:
        routes: what the operator wrote.
        steps: those there are.
        models: those there are.
        buckets: those photos may be read from; None for any.

    Raises:
        InvalidRoutes: with every problem: better at the start than with the first photo.
    """
    problems: list[str] = []
    for i, route in enumerate(routes.routes):
        if buckets is not None and route.bucket not in buckets:
            problems.append(
                f"routes.{i}.bucket: {route.bucket!r} is not one of {sorted(buckets)} (ALLOWED_BUCKETS)"
            )
        try:
            parse(route.definition, steps, settings=route.settings, models=models)
        except InvalidPipeline as error:
            problems += [f"routes.{i}.pipeline.{problem}" for problem in error.problems]
    if problems:
        raise InvalidRoutes("\n".join(problems))


def load_routes(path: Path | None) -> Routes:
    """Read a routes file: `{routes: [{bucket, prefix, match?, pipeline, settings?, callback?}]}`.

    Raises:
        InvalidRoutes: naming the file and every problem.
    """
    if path is None:
        return Routes()
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidRoutes(f"{path}: not a file of YAML: {error}") from error
    return parse_routes(content, str(path))


def parse_routes(content: object, where: str) -> Routes:
    """Return the routes of a file's content.

    Raises:
        InvalidRoutes: naming the file and every problem.
    """
    if not isinstance(content, dict) or not isinstance(content.get("routes"), list):
        raise InvalidRoutes(f"{where}: expected a mapping with the key `routes`: a list")
    routes: list[Route] = []
    problems: list[Problem] = []
    for i, item in enumerate(content["routes"]):
        try:
            entry = RouteEntry.model_validate(item)
        except ValidationError as error:
            problems += [Problem(f"routes.{i}.{wrong.path}", wrong.message) for wrong in problems_of(error)]
            continue
        definition, wrong = read_definition(entry.pipeline)
        problems += [Problem(f"routes.{i}.pipeline.{problem.path}", problem.message) for problem in wrong]
        if entry.prefix.count("{tenant_id}") != 1 or "{" in entry.prefix.replace("{tenant_id}", ""):
            problems.append(
                Problem(
                    f"routes.{i}.prefix",
                    "must contain {tenant_id} once, and no other placeholder: the path names the tenant",
                )
            )
        elif definition is not None:
            folder = re.escape(entry.prefix.rstrip("/")).replace(
                re.escape("{tenant_id}"), "(?P<tenant_id>[^/]+)"
            )
            try:
                pattern = re.compile(f"{folder}/(?:{entry.match})", re.DOTALL)
            except re.error as error:
                problems.append(Problem(f"routes.{i}.match", f"not a regular expression: {error}"))
                continue
            routes.append(
                Route(entry.bucket, pattern, definition, entry.pipeline, entry.settings, entry.callback)
            )
    if problems:
        raise InvalidRoutes("\n".join(f"{where}: {problem}" for problem in problems))
    return Routes(routes)
