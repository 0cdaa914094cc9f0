"""Pipelines by name, for the backend's older message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue

from consumer.pipeline.definition import read_definition
from consumer.pipeline.problems import Problem, nearest
from contracts.pipeline import PipelineDefinition

_OLD_NAMES = {"estimation": "count"}
"""Steps of the older worker under the names they have now."""


class InvalidPresets(ValueError):
    """A presets file that cannot be used; the message lists every problem."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One named pipeline."""

    definition: PipelineDefinition
    raw: dict[str, Any]
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
    text = path.read_text() if path else files("consumer").joinpath("presets.yaml").read_text()
    return parse_presets(yaml.safe_load(text), str(path or "presets.yaml"))


def parse_presets(content: object, where: str) -> Presets:
    """Return the presets of a file's content: `{pipelines: {NAME: [step or element, ...]}, settings?}`.

    Raises:
        InvalidPresets: naming the file and every problem.
    """
    if not isinstance(content, dict) or not isinstance(content.get("pipelines"), dict):
        raise InvalidPresets(f"{where}: expected a mapping with the key `pipelines`: name to list of steps")
    settings = content.get("settings") or {}
    found: dict[str, Preset] = {}
    problems: list[Problem] = []
    for name, steps in content["pipelines"].items():
        raw = {"steps": [_element(step) for step in steps]} if isinstance(steps, list) else {"steps": steps}
        definition, wrong = read_definition(raw)
        problems += [Problem(f"pipelines.{name}.{problem.path}", problem.message) for problem in wrong]
        if definition is not None:
            found[str(name)] = Preset(definition, raw, settings)
    if problems:
        raise InvalidPresets("\n".join(f"{where}: {problem}" for problem in problems))
    return Presets(found)


def with_confidence(raw: dict[str, Any], confidence: float) -> dict[str, Any]:
    """Return the definition with every detection's confidence set, as `options.confidence_override` asks."""

    def changed(element: dict[str, Any]) -> dict[str, Any]:
        if element.get("name") in ("detection", "sahi_detection"):
            return {**element, "kwargs": {**element.get("kwargs", {}), "confidence": confidence}}
        return element

    return {**raw, "steps": [changed(element) for element in raw["steps"]]}


def _element(step: object) -> object:
    if isinstance(step, str):
        return {"type": "step", "name": _OLD_NAMES.get(step, step)}
    return step
