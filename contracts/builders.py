"""Pipeline definitions written in Python: the same tree as on the wire.

>>> pipeline(step("detection", confidence=0.6), step("count")).model_dump_json()
"""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from contracts.pipeline import (
    ChainDefinition,
    ChordDefinition,
    ElementDefinition,
    GroupDefinition,
    MapDefinition,
    OnError,
    PipelineDefinition,
    StepDefinition,
)


def pipeline(*steps: ElementDefinition) -> PipelineDefinition:
    """Return a whole definition: these elements one after the other."""
    return PipelineDefinition(steps=steps)


def step(
    name: str,
    /,
    *,
    id: str | None = None,  # noqa: A002 (the wire's name)
    timeout_s: float | None = None,
    retries: int = 0,
    on_error: OnError = "fail",
    **kwargs: JsonValue,
) -> StepDefinition:
    """Return one call of a step; `kwargs` are its parameters."""
    return StepDefinition(
        name=name, kwargs=kwargs, id=id, timeout_s=timeout_s, retries=retries, on_error=on_error
    )


def chain(*steps: ElementDefinition) -> ChainDefinition:
    """Return elements one after the other."""
    return ChainDefinition(steps=steps)


def group(*steps: ElementDefinition, on_error: OnError = "fail", min_success: float = 0.0) -> GroupDefinition:
    """Return elements side by side."""
    return GroupDefinition(steps=steps, on_error=on_error, min_success=min_success)


def chord(group: GroupDefinition, callback: StepDefinition | None = None) -> ChordDefinition:
    """Return a group, then a step that reads what it wrote."""
    return ChordDefinition(group=group, callback=callback)


def map_(
    over: Literal["segments", "crops", "detections"],
    body: ElementDefinition,
    *,
    max_concurrency: int = 8,
    on_error: OnError = "fail",
    min_success: float = 0.0,
) -> MapDefinition:
    """Return a body run once per item."""
    return MapDefinition(
        over=over, body=body, max_concurrency=max_concurrency, on_error=on_error, min_success=min_success
    )
