"""Pipelines written in Python are the same trees as on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from consumer.pipeline.definition import read_definition
from contracts.builders import chain, chord, group, map_, pipeline, step
from contracts.pipeline import ElementDefinition, PipelineDefinition


@pytest.mark.parametrize(
    ("built", "wire"),
    [
        (step("find"), {"type": "step", "name": "find"}),
        (
            step("find", segment_type="bed", n=3),
            {"type": "step", "name": "find", "kwargs": {"segment_type": "bed", "n": 3}},
        ),
        (
            step("find", timeout_s=2.5, retries=3, on_error="skip"),
            {"type": "step", "name": "find", "timeout_s": 2.5, "retries": 3, "on_error": "skip"},
        ),
        (
            step("upload", name="x", type="y"),
            {"type": "step", "name": "upload", "kwargs": {"name": "x", "type": "y"}},
        ),
        (chain(), {"type": "chain", "steps": []}),
        (
            chain(step("a"), chain(step("b"))),
            {
                "type": "chain",
                "steps": [
                    {"type": "step", "name": "a"},
                    {"type": "chain", "steps": [{"type": "step", "name": "b"}]},
                ],
            },
        ),
        (
            group(step("a"), on_error="skip", min_success=0.5),
            {
                "type": "group",
                "steps": [{"type": "step", "name": "a"}],
                "on_error": "skip",
                "min_success": 0.5,
            },
        ),
        (chord(group()), {"type": "chord", "group": {"steps": []}}),
        (
            chord(group(step("a")), step("b")),
            {"type": "chord", "group": {"steps": [{"type": "step", "name": "a"}]}, "callback": {"name": "b"}},
        ),
        (
            map_("crops", step("a"), max_concurrency=2, on_error="skip", min_success=0.9),
            {
                "type": "map",
                "over": "crops",
                "body": {"type": "step", "name": "a"},
                "max_concurrency": 2,
                "on_error": "skip",
                "min_success": 0.9,
            },
        ),
        (
            map_("segments", step("a")),
            {"type": "map", "over": "segments", "body": {"type": "step", "name": "a"}},
        ),
    ],
)
def test_an_element_built_is_the_element_read(built: ElementDefinition, wire: dict[str, Any]) -> None:
    read, problems = read_definition({"steps": [wire]})

    assert problems == []
    assert read == pipeline(built)


def test_what_is_built_survives_the_wire() -> None:
    built = pipeline(
        step("a", deep={"x": [1, None, {"y": 2.5}]}), map_("detections", chord(group(step("b"))))
    )

    assert PipelineDefinition.model_validate_json(built.model_dump_json()) == built


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: step(""),
        lambda: step("find", retries=11),
        lambda: step("find", timeout_s=-1),
        lambda: map_("photos", step("a")),  # type: ignore[arg-type]
        lambda: group(step("a"), min_success=2),
        lambda: chord(group(), chain()),  # type: ignore[arg-type]
    ],
)
def test_what_the_wire_refuses_cannot_be_built(mistake: Any) -> None:
    with pytest.raises(ValidationError):
        mistake()
