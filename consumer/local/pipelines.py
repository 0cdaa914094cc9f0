"""The fullest pipeline that the models at hand permit."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from contracts.base import JsonObject
from contracts.builders import pipeline, step
from contracts.pipeline import PipelineDefinition, StepDefinition
from pipeline_steps.models import CLASSIFIERS, ModelKind, ModelSpec

DETECTOR, REGIONS, MASKS, KINDS = "plants", "containers", "sam", "species"
"""The packaged models' names. `species` tells kinds of plants apart by their looks."""
ORIGINALS = "originals"
"""Photos that land in this folder of a tenant's start work by that."""
THUMBNAIL = 768
"""Longest side of the copies that galleries show."""


def fullest_pipeline(
    models: Mapping[str, ModelSpec], *, species: bool = False, keep_original: bool = False
) -> PipelineDefinition:
    """Return a pipeline from segments to pictures, with what `models` has.

    Args:
        models: the manifest's models by name. `plants` is required; `containers` adds segments, `sam` their
            masks, `species` a class for each plant.
        species: whether the species of the message's setting `species` are dealt out.
        keep_original: also store the photo as it came under `originals/`, whose notification the worker
            must then recognise as its own doing.
    """
    steps: list[StepDefinition] = []
    if _has(models, REGIONS, ModelKind.DETECTION):
        steps += [step("segmentation", masks=_has(models, MASKS, ModelKind.SAM)), step("segment_filter")]
    steps += [step("detection", model=DETECTOR), step("count"), step("size_calculator")]
    if _has(models, KINDS, *CLASSIFIERS):
        steps.append(step("classification", model=KINDS, over="detections"))
    if species:
        steps.append(step("species_distributor"))
    steps.append(step("visualize_detections"))
    if keep_original:
        steps.append(step("upload_image", dest_prefix=ORIGINALS, thumbnail_sizes=[]))
    steps.append(step("upload_image", source="processed", thumbnail_sizes=[THUMBNAIL]))
    return pipeline(*steps)


def _has(models: Mapping[str, ModelSpec], name: str, *kinds: ModelKind) -> bool:
    return name in models and models[name].kind in kinds


def route_of(
    bucket: str, definition: PipelineDefinition, settings: Mapping[str, JsonValue] | None = None
) -> JsonObject:
    """Return the route that starts `definition` for photos that land in a tenant's originals."""
    return {
        "bucket": bucket,
        "prefix": f"{{tenant_id}}/{ORIGINALS}/",
        "pipeline": definition.model_dump(mode="json", exclude_none=True),
        "settings": dict(settings or {}),
    }
