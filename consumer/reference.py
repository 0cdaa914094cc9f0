"""The reference that the code itself gives: steps and settings, for `--help`, JSON and the README."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from pydantic import JsonValue
from pydantic.json_schema import JsonSchemaValue

from consumer.pipeline.problems import nearest
from contracts.base import JsonObject
from pipeline_steps.loading import load_steps
from pipeline_steps.registry import Step, settings_read_by


class UnknownStep(LookupError):
    """No step has that name."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable of `mlworker run`."""

    name: str
    required: bool
    default: JsonValue
    description: str

    @property
    def shown(self) -> str:
        """The default as a person reads it."""
        return "required" if self.required else _shown(self.default)

    def as_json(self) -> JsonObject:
        """Return it for machines."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a step."""

    name: str
    type: str
    """What may be given, in words."""
    required: bool
    default: JsonValue
    description: str
    setting: str | None
    """The message's setting that fills it where the pipeline does not."""

    @property
    def shown(self) -> str:
        """The default as a person reads it."""
        return "required" if self.required else _shown(self.default)


@dataclass(frozen=True, slots=True)
class StepEntry:
    """One step of the catalogue."""

    name: str
    summary: str
    details: str
    """The rest of what its author says of it."""
    inputs: Mapping[str, bool]
    """Artifacts it reads, and whether it cannot do without."""
    outputs: Sequence[str]
    parameters: Sequence[Parameter]
    schema: JsonSchemaValue
    """JSON Schema of its `kwargs`."""

    @property
    def reads(self) -> str:
        """The inputs in a line; a question mark where one may be missing."""
        return ", ".join(name if needed else f"{name}?" for name, needed in self.inputs.items())

    @property
    def writes(self) -> str:
        """The outputs in a line."""
        return ", ".join(self.outputs)

    def as_json(self) -> JsonObject:
        """Return it for machines."""
        return {
            "name": self.name,
            "summary": self.summary,
            "description": self.details,
            "inputs": dict(self.inputs),
            "outputs": list(self.outputs),
            "params": [asdict(parameter) for parameter in self.parameters],
            "schema": self.schema,
        }


def settings_reference() -> list[Setting]:
    """Return every variable of `mlworker run`, in the order of `Settings`."""
    from consumer.settings import Settings  # slow to import, and the steps do not need it

    return [
        Setting(
            name.upper(),
            info.is_required(),
            None if info.is_required() else _json(info.get_default(call_default_factory=True)),
            info.description or "",
        )
        for name, info in Settings.model_fields.items()
    ]


def step_reference(name: str | None = None) -> list[StepEntry]:
    """Return the catalogue, or one step of it.

    Raises:
        UnknownStep: with the nearest name.
        PluginFailed: an installed plug-in cannot be loaded.
    """
    registry = load_steps()
    if name is None:
        return [_entry(step) for step in registry]
    if name in registry.ignored:
        raise UnknownStep(f"{name!r} is accepted in pipelines and does nothing: {registry.ignored[name]}")
    if name not in registry:
        raise UnknownStep(f"no step is named {name!r}; {nearest(name, registry.names())}")
    return [_entry(registry[name])]


def _entry(step: Step) -> StepEntry:
    schema = step.params.model_json_schema()
    return StepEntry(
        step.name,
        step.summary,
        _details(inspect.getdoc(step.run) or ""),
        {kind.__name__: argument not in step.optional for argument, kind in step.reads.items()},
        [kind.__name__ for kind in step.writes],
        list(_parameters(step, schema)),
        schema,
    )


def _details(docstring: str) -> str:
    """Return what follows the summary, without the list of errors, which is for programmers."""
    return docstring.partition("\n")[2].partition("\nRaises:")[0].strip()


def _parameters(step: Step, schema: JsonSchemaValue) -> Iterator[Parameter]:
    setting_of = {parameter: name for name, parameter in settings_read_by(step.params).items()}
    required = schema.get("required", ())
    for name, one in schema.get("properties", {}).items():
        yield Parameter(
            name,
            _type(one, schema.get("$defs", {})),
            name in required,
            one.get("default"),
            one.get("description", ""),
            setting_of.get(name),
        )


def _type(schema: JsonSchemaValue, named: Mapping[str, JsonSchemaValue]) -> str:
    """Say what a JSON Schema allows in a few words: `number 0 to 1`, `list of text`, `iou | ios`."""
    if "$ref" in schema:
        return _type(named[schema["$ref"].rpartition("/")[2]], named)
    if "anyOf" in schema:
        kinds = (_type(one, named) for one in schema["anyOf"] if one.get("type") != "null")
        return " or ".join(dict.fromkeys(kinds))
    if "const" in schema or "enum" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    match schema.get("type"):
        case "array":
            items = schema.get("items")
            return f"list of {_type(items, named)}" if items else "list"
        case "integer" | "number" as kind:
            return f"{kind} {_limits(schema)}".rstrip()
        case "string":
            return "text"
        case "boolean":
            return "true | false"
        case kind:
            return str(kind or "anything")


def _limits(schema: JsonSchemaValue) -> str:
    over, least = schema.get("exclusiveMinimum"), schema.get("minimum")
    under, most = schema.get("exclusiveMaximum"), schema.get("maximum")
    if least is not None and most is not None:
        return f"{least:g} to {most:g}"
    signs = ((">", over), ("≥", least), ("<", under), ("≤", most))
    return ", ".join(f"{sign} {limit:g}" for sign, limit in signs if limit is not None)


def _json(value: object) -> JsonValue:
    """Return a default as JSON has it."""
    if isinstance(value, tuple | list):
        return [_json(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _shown(value: JsonValue) -> str:
    match value:
        case None:
            return "(unset)"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case list():
            return ",".join(map(_shown, value)) or "(empty)"
        case _:
            return str(value)
