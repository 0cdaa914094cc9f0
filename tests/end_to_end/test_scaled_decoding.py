"""Photos that are only shown to models whose manifest entry says `decoding: scaled`."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from consumer.local.scenes import demo_photo
from contracts.result import Detection, ProcessingResult
from pipeline_steps.geometry import overlaps
from pipeline_steps.image.encode import encode_jpeg
from pipeline_steps.registry import load_steps
from tests.end_to_end.site import BUCKET, open_site

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
