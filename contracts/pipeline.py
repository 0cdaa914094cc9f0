"""The pipeline definition as it travels inside a message: step, chain, group, chord, map.

The grammar::

    root    := {type?: "chain", steps: [element...]}
    element := step | chain | group | chord | map
    step    := {type: "step", name, kwargs?, id?, timeout_s?, retries?, on_error?: "fail"|"skip"}
    group   := {type: "group", steps: [element...], on_error?, min_success?}
    chord   := {type: "chord", group, callback?: step}
    map     := {type: "map", over, body: element, max_concurrency?, on_error?, min_success?}
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, JsonValue

from contracts.base import Contract

OnError: TypeAlias = Literal["fail", "skip"]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class StepDefinition(Contract):
    """One call of a registered step."""

    type: Literal["step"] = "step"
    name: str = Field(min_length=1, max_length=64)
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """The step's parameters; see `mlworker steps NAME`."""
    id: str | None = Field(default=None, max_length=64)
    """A name of the author's, reported beside the path."""
    timeout_s: float | None = Field(default=None, gt=0)
    retries: int = Field(default=0, ge=0, le=10)
    on_error: OnError = "fail"


class ChainDefinition(Contract):
    """Elements one after the other: each sees what those before it wrote."""

    type: Literal["chain"] = "chain"
    steps: tuple[ElementDefinition, ...]


class GroupDefinition(Contract):
    """Elements side by side: all see the same, and what they wrote is joined in declared order."""

    type: Literal["group"] = "group"
    steps: tuple[ElementDefinition, ...]
    on_error: OnError = "fail"
    min_success: Fraction = 0.0
    """With `on_error: skip`, the least fraction of branches that must succeed."""


class ChordDefinition(Contract):
    """A group, then one step that reads what the group wrote."""

    type: Literal["chord"] = "chord"
    group: GroupDefinition
    callback: StepDefinition | None = None


class MapDefinition(Contract):
    """A body run once per item, which it sees as its `Image`."""

    type: Literal["map"] = "map"
    over: Literal["segments", "crops", "detections"]
    body: ElementDefinition
    max_concurrency: int = Field(default=8, ge=1, le=256)
    on_error: OnError = "fail"
    min_success: Fraction = 0.0


ElementDefinition: TypeAlias = Annotated[
    StepDefinition | ChainDefinition | GroupDefinition | ChordDefinition | MapDefinition,
    # The type tells which; only where no other kind may stand, as in a chord, it may be left out.
    Field(discriminator="type", json_schema_extra={"required": ["type"]}),
]


class PipelineDefinition(ChainDefinition):
    """The root of a definition: always a chain."""


for _model in (ChainDefinition, GroupDefinition, ChordDefinition, MapDefinition, PipelineDefinition):
    _model.model_rebuild()
