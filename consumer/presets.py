"""Pipelines by name, for the backend's older message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

import yaml
from pydantic import JsonValue, TypeAdapter, ValidationError

from consumer.pipeline.definition import read_definition
from consumer.pipeline.problems import ROOT, Problem, nearest, problems_of
from contracts.pipeline import PipelineDefinition

OVERRIDE = "confidence_override"
"""The option of an older message that is read."""
_OLD_NAMES = {"estimation": "count"}
"""Steps of the older worker under the names they have now."""
_SETTINGS: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


class InvalidPresets(ValueError):
    """A presets file that cannot be used; the message lists every problem."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One named pipeline."""

    definition: PipelineDefinition
    raw: JsonValue
    """The definition as the file has it: part of the identity of the work."""
    settings: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Presets:
    """Every named pipeline."""

    by_name: Mapping[str, Preset]

    def named(self, name: str) -> tuple[Preset | None, str]:
        """Return the preset, or None and a hint of the nearest name."""
        preset = self.by_name.get(name)
        return preset, "" if preset else nearest(name, self.by_name)


def load_presets(path: Path | None = None) -> Presets:
    """Read a presets file; without one, the packaged presets.

    Raises:
        InvalidPresets: naming the file and every problem.
    """
    where = str(path or "presets.yaml")
    try:
        text = path.read_text() if path else files("consumer").joinpath("presets.yaml").read_text()
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidPresets(f"{where}: not a file of YAML: {error}") from error
    return parse_presets(content, where)


def parse_presets(content: object, where: str) -> Presets:
    """Return the presets of a file's content: `{pipelines: {NAME: [step or element, ...]}, settings?}`.

    Raises:
        InvalidPresets: naming the file and every problem.
    """
    if not isinstance(content, dict) or not isinstance(content.get("pipelines"), dict):
        raise InvalidPresets(f"{where}: expected a mapping with the key `pipelines`: name to list of steps")
    settings = content.get("settings") or {}
    found: dict[str, Preset] = {}
    problems = _settings_problems(settings)
    for name, steps in content["pipelines"].items():
        raw = as_definition(steps)
        definition, wrong = read_definition(raw)
        problems += [Problem(f"pipelines.{name}.{problem.path}", problem.message) for problem in wrong]
        if definition is not None:
            found[str(name)] = Preset(definition, raw, settings)
    if problems:
        raise InvalidPresets("\n".join(f"{where}: {problem}" for problem in problems))
    return Presets(found)


def as_definition(steps: JsonValue) -> JsonValue:
    """Return the definition of a preset's steps, of which each may be no more than a name."""
    return {"steps": [*map(_element, steps)] if isinstance(steps, list) else steps}


def override_problems(options: Mapping[str, JsonValue]) -> list[Problem]:
    """Return what is wrong with `options.confidence_override`."""
    value = options.get(OVERRIDE, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        shown = str(value)[:80]
        return [Problem(f"options.{OVERRIDE}", f"should be a number from 0 to 1, got {shown!r}")]
    return []


def with_confidence(raw: JsonValue, confidence: JsonValue) -> JsonValue:
    """Return the definition with every detection's confidence set, as `options.confidence_override` asks."""
    if isinstance(raw, list):
        return [with_confidence(element, confidence) for element in raw]
    if not isinstance(raw, dict):
        return raw
    if raw.get("name") in ("detection", "sahi_detection"):
        kwargs = raw.get("kwargs")
        return {**raw, "kwargs": {**(kwargs if isinstance(kwargs, dict) else {}), "confidence": confidence}}
    inner = [key for key in ("steps", "group", "callback", "body") if key in raw]
    return {**raw, **{key: with_confidence(raw[key], confidence) for key in inner}}


def _settings_problems(settings: object) -> list[Problem]:
    try:
        _SETTINGS.validate_python(settings)
    except ValidationError as error:
        found = problems_of(error)
        return [
            replace(wrong, path="settings" if wrong.path == ROOT else f"settings.{wrong.path}")
            for wrong in found
        ]
    return []


def _element(step: JsonValue) -> JsonValue:
    if isinstance(step, str):
        return {"type": "step", "name": _OLD_NAMES.get(step, step)}
    return step
