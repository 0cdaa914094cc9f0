"""Photos that are only shown to models whose manifest entry says `decoding: scaled`."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import numpy as np
import pytest
import yaml

from consumer.jobs import Ids, Job, Source
from consumer.local.scenes import demo_photo
from consumer.models.manifest import Manifest, ModelEntry
from consumer.pipeline.parse import parse
from consumer.running import Runner
from contracts.builders import pipeline, step
from contracts.result import Detection, ProcessingResult
from pipeline_steps.geometry import overlaps
from pipeline_steps.image.encode import encode_jpeg
from pipeline_steps.loading import load_steps
from tests.end_to_end.site import BUCKET, open_site
from tests.models.random_models import entry

PACKAGED = Path("consumer/local/models")
DETECTION = {"type": "step", "name": "detection", "kwargs": {"model": "plants"}}
COUNT = {"type": "step", "name": "count"}
UPLOAD = {"type": "step", "name": "upload_image", "kwargs": {"source": "original"}}


def models(folder: Path, decoding: str) -> Path:
    """Return a folder with the packaged plant detector, and how photos may be decoded for it."""
    folder.mkdir()
    (plants,) = [
        entry
        for entry in yaml.safe_load((PACKAGED / "models.yaml").read_text())["models"]
        if entry["name"] == "plants"
    ]
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": [plants | {"decoding": decoding}]}))
    shutil.copy(PACKAGED / "plants.safetensors", folder)
    return folder


def results(tmp_path: Path, decoding: str, *pipelines: list[dict[str, Any]]) -> list[ProcessingResult]:
    async def story() -> list[ProcessingResult]:
        folder = tmp_path / decoding
        folder.mkdir()
        async with open_site(folder, load_steps(plugins=False)) as site:
            photo = encode_jpeg(demo_photo(11, 1800, 2400).pixels, 92)
            await site.store.write(BUCKET, "acme/originals/a.jpg", photo, content_type="image/jpeg")
            async with site.worker(model_path=str(models(folder / "of", decoding))):
                for number, steps in enumerate(pipelines, 1):
                    site.publish(site.request(*steps))
                    await site.until_settled(number)
            assert set(site.reasons()) == {"succeeded"}
            return await site.results()

    return asyncio.run(story())


def _boxes(found: tuple[Detection, ...]) -> np.ndarray:
    return np.array([(one.box.x1, one.box.y1, one.box.x2, one.box.y2) for one in found], np.float32)


def test_a_photo_is_decoded_smaller_for_such_a_model_and_its_result_says_so(tmp_path: Path) -> None:
    seen, stored = results(tmp_path, "scaled", [DETECTION, COUNT], [DETECTION, COUNT, UPLOAD])
    (whole,) = results(tmp_path, "full", [DETECTION, COUNT])

    assert [one.image.scaled for one in (seen, stored, whole) if one.image] == [True, False, False]
    for one in (seen, stored, whole):
        assert one.image is not None
        assert (one.image.width, one.image.height) == (2400, 1800)
    assert stored.detections == whole.detections
    assert (stored.artifacts[0].width, stored.artifacts[0].height) == (2400, 1800)
    assert len(whole.detections) > 10
    overlap = overlaps(_boxes(seen.detections), _boxes(whole.detections))
    found_again = (overlap.max(0) > 0.8).mean()
    assert found_again > 0.9
    assert abs(len(seen.detections) - len(whole.detections)) <= 0.1 * len(whole.detections)


@dataclass
class Catalogue:
    """A pool that knows of models what its manifest says."""

    manifest: Manifest

    def for_job(self, job: object, tenant_id: str) -> Any:
        del job
        specs = self.manifest.specs()
        return SimpleNamespace(spec=lambda name: specs[self.manifest.for_tenant(name, tenant_id)])


def model(name: str, decoding: str, input_size: int, **tenants: str) -> ModelEntry:
    return entry(name, decoding=decoding, input_size=input_size, tenants=tenants)


@pytest.mark.parametrize(
    ("tenant", "models", "longest"),
    [
        ("acme", ["small"], 300),
        ("acme", ["small", "large"], 700),
        ("acme", ["small", "exact"], None),
        ("zoo", ["small"], None),
        ("zoo", ["large"], 300),
    ],
)
def test_it_is_decoded_for_the_model_that_is_shown_most_if_every_one_of_them_allows_it(
    tenant: str, models: list[str], longest: int | None
) -> None:
    manifest = Manifest(
        "/models",
        [
            model("small", "scaled", 300, zoo="exact"),
            model("large", "scaled", 700, zoo="small"),
            model("exact", "full", 200),
        ],
    )
    steps = [step("detection", model=name) for name in models]
    parsed = parse(pipeline(*steps), load_steps(plugins=False), models=manifest.specs())
    ids, source = Ids(tenant, UUID(int=1), UUID(int=2)), Source(BUCKET, "a.jpg", 1)
    job = Job(ids, source, pipeline(*steps), {}, "id")
    runner = Runner(
        cast(Any, None), cast(Any, None), BUCKET, Catalogue(manifest), cast(Any, None), cast(Any, None), 1, 1
    )

    assert runner._longest(job, parsed) == longest
