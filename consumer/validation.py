"""`mlworker validate`: what is wrong with a message or a pipeline, without running it or loading a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import orjson
from pydantic import JsonValue

from consumer.broker import Delivery
from consumer.decode import Decoder, Ignored, Notified
from consumer.errors import MalformedMessage
from consumer.models.manifest import InvalidManifest, load_manifest
from consumer.pipeline.definition import read_definition
from consumer.pipeline.parse import InvalidPipeline, parse
from consumer.pipeline.problems import ROOT, Problem
from consumer.presets import InvalidPresets, load_presets, parse_presets
from consumer.routes import Routes
from contracts.base import JsonObject
from contracts.pipeline import PipelineDefinition
from pipeline_steps.models import ModelCatalogue
from pipeline_steps.registry import StepRegistry, load_steps

_MAX_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class Report:
    """What was found."""

    what: str
    """What the text was taken for."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()

    def as_json(self) -> JsonObject:
        """Return the report for machines."""
        return {
            "valid": not self.problems,
            "what": self.what,
            "problems": [{"path": problem.path, "message": problem.message} for problem in self.problems],
            "warnings": [*self.warnings],
        }


def validate_json(data: bytes, model_path: str | None = "demo") -> Report:
    """Return every problem of a definition, a request, a named-pipeline message or a presets file.

    Args:
        data: what a message or a file holds.
        model_path: folder of the `models.yaml` to check model names against; `demo` is the packaged one, and
            with None nothing is said of models.

    Raises:
        PluginFailed: an installed plug-in cannot be loaded.
    """
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return Report("not JSON", (Problem(ROOT, f"not JSON: {error}"),))
    if not isinstance(raw, dict):
        return Report("not an object", (Problem(ROOT, f"expected an object, got {type(raw).__name__}"),))
    try:
        orjson.dumps(raw)
    except orjson.JSONEncodeError as error:  # it can be read, but nothing can be said of it
        return Report("nested too deep", (Problem(ROOT, f"nested too deep: {str(error).lower()}"),))
    if isinstance(raw.get("body"), dict) and "headers" in raw:
        raw = raw["body"]  # a recorded HTTP task of the older worker
    try:
        checker = _Checker(load_steps(), None if model_path is None else _models(model_path))
    except InvalidManifest as error:
        return Report("model manifest", (Problem("--model-path", str(error)),))
    if "pipelines" in raw:
        return checker.presets(raw)
    if "tenant_id" in raw or "image_url" in raw or "pipeline" in raw:
        return checker.message(raw)
    if "pipeline_definition" in raw:
        return checker.tenants_configuration(raw)
    return checker.definition(raw, {}, "")


@dataclass(frozen=True, slots=True)
class _Checker:
    steps: StepRegistry
    models: ModelCatalogue | None

    def tenants_configuration(self, raw: JsonObject) -> Report:
        settings = raw.get("settings")
        if not isinstance(settings, dict | None):
            wrong = Problem("settings", f"expected an object, got {type(settings).__name__}")
            report = self.definition(raw["pipeline_definition"], {}, "pipeline_definition.")
            return Report(report.what, (*report.problems, wrong), report.warnings)
        return self.definition(raw["pipeline_definition"], settings or {}, "pipeline_definition.")

    def definition(self, raw: object, settings: Mapping[str, JsonValue], prefix: str) -> Report:
        what = "a pipeline definition"
        definition, problems = read_definition(raw)
        if definition is None:
            return Report(what, tuple(_under(prefix, problem) for problem in problems))
        return self._parsed(what, definition, settings, prefix)

    def message(self, raw: JsonObject) -> Report:
        is_request = "pipeline_definition" in raw or "pipeline" not in raw
        what = "a processing request" if is_request else "a named-pipeline message"
        delivery = Delivery("", "validated", orjson.dumps(raw), {}, datetime.now(UTC), None)
        try:
            job = Decoder(load_presets(), Routes(), _MAX_BYTES).decode(delivery)
        except MalformedMessage as error:
            return Report(what, tuple(error.problems))
        if isinstance(job, Ignored | Notified):
            return Report(what)
        prefix = "pipeline_definition." if is_request else ""
        report = self._parsed(what, job.definition, job.settings, prefix)
        return Report(what, report.problems, (*job.warnings, *report.warnings))

    def presets(self, raw: JsonObject) -> Report:
        what = "a presets file"
        try:
            presets = parse_presets(raw, "presets")
        except InvalidPresets as error:
            return Report(what, tuple(Problem("pipelines", line) for line in str(error).splitlines()))
        reports = [
            self._parsed(what, preset.definition, preset.settings, f"pipelines.{name}.")
            for name, preset in presets.by_name.items()
        ]
        return Report(
            what,
            tuple(problem for report in reports for problem in report.problems),
            tuple(dict.fromkeys(warning for report in reports for warning in report.warnings)),
        )

    def _parsed(
        self, what: str, definition: PipelineDefinition, settings: Mapping[str, JsonValue], prefix: str
    ) -> Report:
        try:
            pipeline = parse(definition, self.steps, settings=settings, models=self.models)
        except InvalidPipeline as error:
            return Report(what, tuple(_under(prefix, problem) for problem in error.problems))
        return Report(what, (), pipeline.warnings)


def _under(prefix: str, problem: Problem) -> Problem:
    """Return the problem with its path as it is in the whole file."""
    if problem.path.startswith("settings."):
        return problem
    path = prefix.rstrip(".") or ROOT if problem.path == ROOT else prefix + problem.path
    return Problem(path, problem.message)


def _models(model_path: str) -> ModelCatalogue:
    folder = Path(str(files("consumer.local") / "models")) if model_path == "demo" else Path(model_path)
    return load_manifest(folder).specs()
