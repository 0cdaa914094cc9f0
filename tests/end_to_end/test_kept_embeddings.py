"""Two messages about one photo, with different pipelines."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from consumer.local.scenes import demo_photo
from consumer.ops.figures import figures_in
from pipeline_steps.image.encode import encode_jpeg
from pipeline_steps.loading import load_steps
from tests.end_to_end.site import BUCKET, open_site

FIND = {"mode": "automatic", "points_per_side": 2, "pred_iou_thresh": 0.1, "stability_score_thresh": 0.1}


@pytest.mark.parametrize(("memory", "encoded"), [(64 << 20, 1), (0, 2)])
def test_a_second_pipeline_about_a_photo_finds_what_sam_saw_in_it(
    tmp_path: Path, memory: int, encoded: int
) -> None:
    async def story() -> None:
        async with open_site(tmp_path, load_steps(plugins=False)) as site:
            photo = encode_jpeg(demo_photo(2, 240, 320).pixels, 90)
            await site.store.write(BUCKET, "acme/originals/a.jpg", photo, content_type="image/jpeg")
            settings = {"model_path": "demo", "embedding_memory": memory}
            async with site.worker(**settings) as running, httpx.AsyncClient(trust_env=False) as client:
                for number, least in enumerate((0.001, 0.002), 1):
                    step = {"type": "step", "name": "segmentation", "kwargs": FIND | {"min_area": least}}
                    site.publish(site.request(step))
                    await site.until_settled(number)
                text = (await client.get(f"http://127.0.0.1:{running.port}/metrics")).text
            assert site.reasons() == ["succeeded"] * 2
            one, other = await site.results()
            assert one.segments
            assert {segment.mask for segment in other.segments} <= {segment.mask for segment in one.segments}
            # Beside the photo, one chunk of four points each.
            assert figures_in(text).items == encoded + 2

    asyncio.run(story())
