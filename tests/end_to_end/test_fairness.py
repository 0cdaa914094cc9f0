"""One tenant's backlog does not stand before another tenant's message."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image as PillowImage

from pipeline_steps.loading import load_steps
from tests.end_to_end.site import BUCKET, WORK

LOOK = {"type": "step", "name": "look"}
HELD = {"type": "step", "name": "wait_for_the_gate"}
OTHER = {"tenant_id": "other", "image_url": f"gs://{BUCKET}/other/originals/a.jpg"}

MODEL = """models:
- name: finder
  kind: detection
  architecture: any
  weights: w.safetensors
  sha256: '{digest}'
  version: '1'
  input_size: 64
  max_batch: 8
  classes: [plant]
"""


def of(site, tenant: str) -> list[str]:
    return [outcome.reason for delivery, outcome in site.settled if f'"{tenant}"'.encode() in delivery.data]


def test_a_newcomer_does_not_wait_for_a_hundred_messages_that_came_before(play, toys):
    async def story(site):
        await site.photo()
        await site.photo("other/originals/a.jpg")
        for _ in range(100):
            site.publish(site.request(HELD))
        async with site.worker(drain_mode="abort") as running:
            await site.until(lambda: toys.now == 4, "the first ones to run")
            site.publish(site.request(LOOK, **OTHER))
            await site.until(lambda: of(site, "other") == ["succeeded"], "the newcomer's result", 10)
            assert of(site, "acme") == []
            assert toys.now == 4
            assert running.worker.turns.in_hand <= 15
        assert site.broker.backlog(WORK) == 100

    play(story)


def test_every_newcomer_finds_a_slot_and_the_backlog_is_done_all_the_same(play, toys):
    async def story(site):
        await site.photo()
        await site.photo("other/originals/a.jpg")
        for _ in range(15):
            site.publish(site.request({"type": "step", "name": "wait", "kwargs": {"seconds": 2}}))
        async with site.worker():
            for number in range(1, 6):
                site.publish(site.request(LOOK, **OTHER))
                await site.until(lambda n=number: len(of(site, "other")) == n, "the newcomer's result", 10)
            assert len(of(site, "acme")) < 8
            await site.until(lambda: len(of(site, "acme")) == 15, "all of them to be done", 30)
        assert set(site.reasons()) == {"succeeded"}
        assert toys.runs.total() == 20

    play(story)


def test_what_waited_in_hand_is_to_be_had_at_once_after_a_drain(play, toys):
    async def story(site):
        await site.photo()
        for _ in range(30):
            site.publish(site.request(HELD))
        async with site.worker() as running:
            await site.until(lambda: running.worker.turns.rested > 0, "some to be handed back")
            in_hand = running.worker.turns.in_hand
            assert in_hand > 0
            running.worker.stop()
            await site.until(lambda: running.worker.turns.in_hand == 0, "them to be handed back")
            toys.gate.set()
        assert site.reasons() == ["succeeded"] * 4
        # Only those rest that were handed back for a while.
        assert site.broker.leased(WORK) == 26 - in_hand

    play(story)


def test_a_small_photo_is_done_before_large_ones_that_came_before(play):
    """With the steps and the pool as they are by default: decoding, tiles, batches."""

    async def story(site):
        site.steps = load_steps()
        (site.models / "models.yaml").write_text(MODEL.format(digest="0" * 64))
        large = BytesIO()
        PillowImage.fromarray(np.full((6000, 8000, 3), 120, np.uint8)).save(large, "JPEG")
        await site.store.write(BUCKET, "acme/originals/a.jpg", large.getvalue(), content_type="image/jpeg")
        await site.photo("other/originals/a.jpg")
        tiles = {"type": "step", "name": "sahi_detection", "kwargs": {"model": "finder"}}
        for _ in range(100):
            site.publish(site.request(tiles))
        device = "simulated:fixed=0.01:per_item=0.005"
        async with site.worker(devices=device, drain_mode="abort", model_path=str(site.models)) as running:
            await site.until(lambda: running.pool.waiting() > 8, "tiles to wait for the device")
            done = len(of(site, "acme"))
            site.publish(site.request(tiles, **OTHER))
            await site.until(lambda: of(site, "other") == ["succeeded"], "the small one's result")
            assert len(of(site, "acme")) - done <= 4

    play(story)
