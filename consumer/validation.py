"""`mlworker validate`: what is wrong with a message or a pipeline, without running it or loading a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import orjson
from pydantic import JsonValue

from consumer.broker import Delivery
from consumer.decode import Decoder, Ignored, Notified
from consumer.errors import CallbackFailed, MalformedMessage
from consumer.message_problems import look_at_envelope, look_at_request
from consumer.models.manifest import InvalidManifest, load_manifest
from consumer.pipeline.definition import read_definition
from consumer.pipeline.parse import InvalidPipeline, parse
from consumer.pipeline.problems import ROOT, Problem
from consumer.pipeline.second_look import look_again
from consumer.presets import Presets, as_definition, load_presets
from consumer.routes import Routes
from consumer.sources import check_name
from contracts.base import JsonObject
from contracts.pipeline import PipelineDefinition
from contracts.request import NamedPipelineRequest, split_object_url
from pipeline_steps.errors import NotAllowed
from pipeline_steps.loading import load_steps
from pipeline_steps.models import ModelCatalogue
from pipeline_steps.registry import StepRegistry

_MAX_BYTES = 10_000_000
_OF_MESSAGES = frozenset({"tenant_id", "session_id", "image_id", "image_url", "callback_url", "pipeline"})
"""Keys that a file has which is a message, however wrong."""


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
    if not _OF_MESSAGES.isdisjoint(raw):
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
        if isinstance(settings, dict | None):
            return self.definition(raw["pipeline_definition"], settings or {}, "pipeline_definition")
        wrong = Problem("settings", f"expected an object, got {type(settings).__name__}")
        report = self.definition(raw["pipeline_definition"], {}, "pipeline_definition")
        return Report(report.what, (*report.problems, wrong), report.warnings)

    def definition(self, raw: object, settings: Mapping[str, JsonValue], parent: str) -> Report:
        what = "a pipeline definition"
        definition, _ = read_definition(raw)
        if definition is not None:
            return self._parsed(what, definition, settings, parent)
        look = look_again(raw)
        rest = self._parsed(what, look.definition, settings, "")
        problems = [*look.problems, *map(look.as_written, rest.problems)]
        return Report(what, tuple(_under(parent, problem) for problem in problems), rest.warnings)

    def message(self, raw: JsonObject) -> Report:
        is_request = "pipeline_definition" in raw or "pipeline" not in raw
        what = "a processing request" if is_request else "a named-pipeline message"
        presets = load_presets()
        delivery = Delivery("", "validated", orjson.dumps(raw), {}, datetime.now(UTC), None)
        try:
            job = Decoder(presets, Routes(), _MAX_BYTES).decode(delivery)
        except MalformedMessage as error:
            rest = self._rest_of_request(raw) if is_request else self._rest_of_named(raw, presets)
            found = [*error.problems, *rest.problems, *_refused_by_every_worker(raw)]
            return Report(what, tuple(dict.fromkeys(found)), rest.warnings)
        if isinstance(job, Ignored | Notified):
            return Report(what)
        report = self._parsed(what, job.definition, job.settings, "pipeline_definition" if is_request else "")
        problems = (*report.problems, *_refused_by_every_worker(raw))
        return Report(what, problems, (*job.warnings, *report.warnings))

    def presets(self, raw: JsonObject) -> Report:
        what = "a presets file"
        pipelines, settings = raw["pipelines"], raw.get("settings") or {}
        if not isinstance(pipelines, dict):
            expected = f"expected an object, name to list of steps, got {type(pipelines).__name__}"
            return Report(what, (Problem("pipelines", expected),))
        if not isinstance(settings, dict):
            wrong = Problem("settings", f"expected an object, got {type(settings).__name__}")
            rest = self.presets({**raw, "settings": {}})
            return Report(what, (*rest.problems, wrong), rest.warnings)
        reports = [
            self.definition(as_definition(steps), settings, f"pipelines.{name}")
            for name, steps in pipelines.items()
        ]
        return Report(
            what,
            tuple(problem for report in reports for problem in report.problems),
            tuple(dict.fromkeys(warning for report in reports for warning in report.warnings)),
        )

    def _rest_of_request(self, raw: JsonObject) -> Report:
        """Return what else is to be said of a request whose shape is wrong, and that is told already."""
        misread = look_at_request(raw)
        settings = misread.envelope.values.get("settings")
        settings = settings if isinstance(settings, dict) else {}
        if misread.look is None:
            return Report("", (), misread.envelope.warnings)
        rest = self._parsed("", misread.look.definition, settings, "")
        parent = misread.envelope.place("pipeline_definition")
        problems = [_under(parent, misread.look.as_written(problem)) for problem in rest.problems]
        return Report("", tuple(problems), (*misread.envelope.warnings, *rest.warnings))

    def _rest_of_named(self, raw: JsonObject, presets: Presets) -> Report:
        """Return the same of a message that names a preset."""
        envelope = look_at_envelope(NamedPipelineRequest, raw)
        preset, _ = presets.named(str(raw["pipeline"]))
        if preset is None:
            return Report("", (), envelope.warnings)
        rest = self._parsed("", preset.definition, preset.settings, "")
        return Report("", rest.problems, (*envelope.warnings, *rest.warnings))

    def _parsed(
        self, what: str, definition: PipelineDefinition, settings: Mapping[str, JsonValue], parent: str
    ) -> Report:
        try:
            pipeline = parse(definition, self.steps, settings=settings, models=self.models)
        except InvalidPipeline as error:
            return Report(what, tuple(_under(parent, each) for each in error.problems), error.warnings)
        return Report(what, (), pipeline.warnings)


def _refused_by_every_worker(raw: JsonObject) -> Iterator[Problem]:
    """Yield what no worker fetches or calls back, however it is configured."""
    image, callback = raw.get("image_url"), raw.get("callback_url")
    try:
        if isinstance(image, str):
            check_name(split_object_url(image)[1])
    except NotAllowed as error:
        yield Problem("image_url", str(error))
    except ValueError:
        pass  # the request's own problem
    if isinstance(callback, str):
        from consumer.outbound.hosts import check_url  # slow to import, and few messages need it

        try:
            check_url(callback)
        except CallbackFailed as error:
            yield Problem("callback_url", str(error).removeprefix("callback_url "))


def _under(parent: str, problem: Problem) -> Problem:
    """Return the problem with its path as it is in the whole file."""
    if not parent or problem.path.startswith("settings."):
        return problem
    return problem.under(parent)


def _models(model_path: str) -> ModelCatalogue:
    folder = Path(str(files("consumer.local") / "models")) if model_path == "demo" else Path(model_path)
    return load_manifest(folder).specs()
