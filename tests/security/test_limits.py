"""What one message may cost: each limit of the settings, met by a message that is over it."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image as PillowImage

from tests.end_to_end.site import BUCKET

LOOK = {"type": "step", "name": "look"}
GATE = {"type": "step", "name": "wait_for_the_gate"}


async def only_letter(site):
    [letter] = await site.dead_letters()
    return letter.attributes["mlworker-error-code"], letter.attributes["mlworker-error-message"]


@pytest.mark.parametrize(
    ("limit", "code", "message"),
    [
        ({"max_message_bytes": 100}, "message_too_large", "at most 100 are read (MAX_MESSAGE_BYTES)"),
        ({"max_image_bytes": 100}, "invalid_input", "at most 100 are read (MAX_IMAGE_BYTES)"),
        ({"max_image_pixels": 64 * 48 - 1}, "unreadable_image", "more than MAX_IMAGE_PIXELS=3071"),
    ],
)
def test_a_message_over_a_limit_is_given_up_at_once_and_says_which(play, toys, limit, code, message):
    async def story(site):
        await site.photo()
        async with site.worker(**limit):
            site.publish(site.request(LOOK))
            await site.until_settled(1)
        found, said = await only_letter(site)
        assert found == code
        assert message in said
        assert sum(toys.runs.values()) == 0

    play(story)


def test_a_result_over_its_limit_is_given_up_and_says_what_it_is_full_of(play, toys):
    async def story(site):
        await site.photo()
        async with site.worker(max_result_bytes=400):
            site.publish(site.request(LOOK))
            await site.until_settled(1)
        code, said = await only_letter(site)
        assert code == "result_too_large"
        assert "more than MAX_RESULT_BYTES=400: 0 detections" in said
        [result] = await site.results()
        assert (result.status, result.error.code) == ("failed", "result_too_large")
        assert sum(toys.runs.values()) == 1

    play(story)


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({"steps": [LOOK] * 513}, "513 elements; at most 512 are allowed"),
        ({"steps": [{**LOOK, "kwargs": {"x": "x" * 300_000}}]}, "bytes of JSON; at most 262144 are allowed"),
    ],
)
def test_a_pipeline_over_a_limit_is_given_up_before_anything_is_fetched(play, definition, message):
    async def story(site):
        async with site.worker():  # there is no photo: fetching it would say so
            site.publish(site.request(pipeline_definition=definition))
            await site.until_settled(1)
        code, said = await only_letter(site)
        assert code == "malformed_message"
        assert message in said

    play(story)


def test_of_a_picture_of_ten_thousand_frames_one_is_decoded(play, toys):
    async def story(site):
        frame = np.zeros((8, 8), np.uint8)
        frames = [PillowImage.fromarray(frame + i % 2) for i in range(10_000)]
        file = BytesIO()
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], optimize=False, loop=0)
        await site.store.write(BUCKET, "acme/originals/a.jpg", file.getvalue(), content_type="image/gif")
        async with site.worker(max_image_pixels=64):
            site.publish(site.request(LOOK))
            await site.until_settled(1)
        [result] = await site.results()
        assert (result.status, result.image.width, result.image.height) == ("succeeded", 8, 8)

    play(story)


def test_one_tenant_does_not_take_every_slot(play, toys):
    async def story(site):
        await site.photo()
        await site.photo("other/originals/a.jpg")
        greedy = [site.request(GATE) for _ in range(3)]
        other = site.request(LOOK, tenant_id="other", image_url=f"gs://{BUCKET}/other/originals/a.jpg")
        async with site.worker(slots=2, tenant_concurrency=1):
            for body in greedy:
                site.publish(body)
            await site.until(lambda: sum(toys.runs.values()) == 1, "the first to run")
            site.publish(other)
            await site.until(lambda: "succeeded" in site.reasons(), "the other tenant's message")
            assert sum(toys.runs[body["image_id"]] for body in greedy) == 1
            toys.gate.set()
        assert toys.runs[other["image_id"]] == 1

    play(story)
