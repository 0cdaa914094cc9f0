"""The reference that the code itself gives: steps and settings, for `--help`, JSON and the README."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic_core import PydanticUndefined

from consumer.pipeline.problems import nearest
from consumer.settings import Settings
from pipeline_steps.registry import Step, load_steps, settings_read_by


class UnknownStep(LookupError):
    """No step has that name."""


class SettingRow(NamedTuple):
    """One environment variable."""

    name: str
    default: str
    text: str


def settings_rows() -> list[SettingRow]:
    """Return every variable of `mlworker run`; an empty default means that it is required."""
    rows = []
    for name, info in Settings.model_fields.items():
        default = info.default
        shown = "" if default is PydanticUndefined else _shown(default)
        rows.append(SettingRow(name.upper(), shown, info.description or ""))
    return rows


def describe_steps(name: str | None = None) -> list[dict[str, Any]]:
    """Return the catalogue, or one step of it.

    Raises:
        UnknownStep: with the nearest name.
    """
    registry = load_steps()
    if name is not None and name not in registry:
        raise UnknownStep(f"no step is named {name!r}; {nearest(name, registry.names())}")
    return [_describe(step) for step in registry if name in (None, step.name)]


def step_lines(described: list[dict[str, Any]], *, in_full: bool) -> Iterator[str]:
    """Yield the lines that a person reads."""
    for step in described:
        inputs = (
            ", ".join(name if needed else f"{name}?" for name, needed in step["inputs"].items()) or "nothing"
        )
        yield f"[bold]{step['name']}[/bold]  {step['summary']}"
        yield f"    [dim]{inputs} -> {', '.join(step['outputs']) or 'nothing'}[/dim]"
        if in_full:
            yield ""
            for parameter in step["params"]:
                setting = f"  [dim](setting {parameter['setting']})[/dim]" if parameter["setting"] else ""
                yield f"    [bold]{parameter['name']}[/bold] = {_markup(parameter['default'])}{setting}"
                yield f"        {_markup(parameter['description'])}"


def _describe(step: Step) -> dict[str, Any]:
    setting_of = {parameter: name for name, parameter in settings_read_by(step.params).items()}
    return {
        "name": step.name,
        "summary": step.summary,
        "inputs": {kind.__name__: argument not in step.optional for argument, kind in step.reads.items()},
        "outputs": [kind.__name__ for kind in step.writes],
        "params": [
            {
                "name": name,
                "default": "required"
                if info.is_required()
                else _shown(info.get_default(call_default_factory=True)),
                "description": info.description or "",
                "setting": setting_of.get(name),
            }
            for name, info in step.params.model_fields.items()
        ],
        "schema": step.params.model_json_schema(),
    }


def _shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return ",".join(str(item) for item in value) or "(empty)"
    if isinstance(value, bool):
        return str(value).lower()
    return "(unset)" if value is None else str(value)


def _markup(text: str) -> str:
    return text.replace("[", r"\[")
