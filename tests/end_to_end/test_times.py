"""What a result and its callback say of when the work was done, and how long it took."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from tests.end_to_end.site import RESULTS_SUB

HELD = 0.4
"""Seconds that each of two steps takes."""
SLOW = [{"type": "step", "name": "hold_the_thread", "kwargs": {"seconds": HELD}}] * 2


@pytest.fixture
def far_from_greenwich(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_processing_time_is_that_of_the_photo_and_every_step(play):
    """Defect 16: it measured only how the callback's body was put together."""

    async def story(site):
        await site.photo()
        async with site.worker():
            published = time.monotonic()
            site.publish(site.request(*SLOW))
            await site.until_settled(1)
            passed = time.monotonic() - published
        [result] = await site.results()
        [(_, body, _, _)] = site.backend.calls
        took = (result.finished_at - result.started_at).total_seconds()
        assert 2 * HELD <= sum(step.ms for step in result.steps) / 1000 <= took <= passed
        assert body["metadata"]["processingTimeMs"] == round(took * 1000)

    play(story)


def test_the_older_callbacks_duration_is_the_same(play):
    async def story(site):
        await site.photo()
        url = f"{site.backend_url}/api/v1/ml/callback"
        async with site.worker():
            site.publish(site.request(*SLOW, callback_url=url))
            await site.until_settled(1)
        [(_, body, _, _)] = site.backend.calls
        assert body["durationMs"] >= 2 * HELD * 1000

    play(story)


def test_times_are_those_of_utc_and_say_so_wherever_the_worker_stands(play, far_from_greenwich):
    """Defect 16: they were local or UTC, and nobody could tell which."""

    async def story(site):
        await site.photo()
        before = datetime.now(UTC)
        async with site.worker():
            site.publish(site.request(*SLOW))
            await site.until_settled(1)
        after = datetime.now(UTC)
        [message] = await site.messages(RESULTS_SUB)
        said = orjson.loads(message.data)
        started, finished = (datetime.fromisoformat(said[name]) for name in ("started_at", "finished_at"))
        assert started.utcoffset() == finished.utcoffset() == timedelta(0)
        assert before <= started < finished <= after

    play(story)
