"""Every packaged preset, run with the demo models on a generated photo: what it says of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import consumer.local
from consumer.local.scenes import Scene, demo_photo
from consumer.models.manifest import load_manifest
from consumer.models.torch_loader import torch_pool
from consumer.pipeline.execute import execute
from consumer.pipeline.parse import parse
from consumer.pipeline.run import Run
from consumer.presets import Presets, load_presets, parse_presets
from consumer.summary import classifications_of, detections_of, estimations_of, segments_of
from contracts.result import Classification, Detection, Segment
from pipeline_steps.artifact import Artifacts
from pipeline_steps.artifacts import Image
from pipeline_steps.context import Deadline, JobInfo
from pipeline_steps.loading import load_steps
from tests.pipeline_steps.fakes import MemoryStore

MODELS = Path(consumer.local.__file__).parent / "models"
VENDING = Path(__file__).parents[1] / "contracts/examples/mlw_named_pipelines_vending.json"
PHOTO = demo_photo(11, 480, 640)


@dataclass(frozen=True)
class Said:
    """What a result says."""

    detections: tuple[Detection, ...]
    segments: tuple[Segment, ...]
    classifications: tuple[Classification, ...]
    numbers: Mapping[str, float]
    stored: tuple[str, ...]


async def _run_all(presets: Presets, photo: Scene, cache: Path) -> dict[str, Said]:
    manifest = load_manifest(MODELS)
    pool = torch_pool(manifest, ["cpu"], cache=cache)
    await pool.start()
    height, width = photo.pixels.shape[:2]
    said: dict[str, Said] = {}
    with ThreadPoolExecutor(1) as threads:
        for name, preset in presets.by_name.items():
            pipeline = parse(preset.definition, load_steps(plugins=False), models=manifest.specs())
            store = MemoryStore()
            run = Run(JobInfo("acme", "session", "photo", None), pool, store, Deadline.after(600), threads)
            written = await execute(pipeline.root, Artifacts.of(Image(photo.pixels)), run)
            assert {step.status for step in run.steps} == {"succeeded"}
            said[name] = Said(
                detections_of(written),
                segments_of(written, width, height),
                classifications_of(written),
                {one.type: one.value for one in estimations_of(written, succeeded=True)},
                tuple(store.files),
            )
    await pool.close()
    return said


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    vending = parse_presets(json.loads(VENDING.read_text()), "vending")
    both = Presets({**load_presets().by_name, "vending": vending.by_name["FULL_PIPELINE"]})
    return asyncio.run(_run_all(both, PHOTO, tmp_path_factory.mktemp("cache")))


def is_near(count: float) -> bool:
    truth = len(PHOTO.plants)
    return abs(count - truth) <= max(1, 0.1 * truth)


@pytest.mark.parametrize(
    "name",
    [
        "DETECTION",
        "SEGMENT_DETECT",
        "FULL_PIPELINE",
        "QUICK_COUNT",
        "SHELF_AUDIT",
        "PRODUCT_IDENTIFICATION",
        "INVENTORY_CHECK",
        "vending",
    ],
)
def test_a_preset_that_detects_counts_the_photos_plants(said: dict[str, Said], name: str) -> None:
    assert is_near(len(said[name].detections))
    assert said[name].numbers["COUNT"] == said[name].numbers["total_count"] == len(said[name].detections)


@pytest.mark.parametrize(
    "name", ["SEGMENTATION", "SEGMENT_DETECT", "FULL_PIPELINE", "FIELD_ANALYSIS", "SHELF_AUDIT", "vending"]
)
def test_a_preset_that_segments_finds_the_photos_containers(said: dict[str, Said], name: str) -> None:
    found = sorted(segment.label for segment in said[name].segments)

    assert found == sorted(PHOTO.container_labels)
    assert all(segment.mask is not None for segment in said[name].segments)


def test_a_fields_analysis_counts_what_was_seen_and_guesses_nothing_from_its_area(
    said: dict[str, Said],
) -> None:
    numbers = said["FIELD_ANALYSIS"].numbers

    assert {"estimated_count", "density_based", "COUNT"}.isdisjoint(numbers)
    assert numbers["segments_with_detections"] == 0


def test_the_full_pipeline_sizes_every_plant(said: dict[str, Said]) -> None:
    numbers = said["FULL_PIPELINE"].numbers

    sized = sum(numbers[f"size_{size}"] for size in ("S", "M", "L", "XL"))
    assert sized == len(said["FULL_PIPELINE"].detections)


@pytest.mark.parametrize("name", ["PRODUCT_IDENTIFICATION", "INVENTORY_CHECK", "vending"])
def test_a_preset_that_classifies_names_every_plant(said: dict[str, Said], name: str) -> None:
    named = [one.detection for one in said[name].classifications]

    assert named == [one.index for one in said[name].detections]


def test_no_preset_draws_or_stores_what_nobody_asked_for(said: dict[str, Said]) -> None:
    assert {name: ran.stored for name, ran in said.items() if ran.stored} == {}
    for preset in load_presets().by_name.values():
        assert "visualize_detections" not in str(preset.raw)
