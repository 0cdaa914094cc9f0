"""SIGTERM: what is finished, what is handed back, and how soon."""

from __future__ import annotations

import time

import orjson
import pytest

from consumer.progress import Durations, Progress, Stage
from tests.end_to_end.site import BUCKET, WORK

LOOK = {"type": "step", "name": "look"}
HELD = {"type": "step", "name": "wait_for_the_gate"}


@pytest.mark.parametrize(
    ("stage", "expected_end", "is_abort", "hopeless"),
    [
        (Stage.WAITING, None, False, True),
        (Stage.RUNNING, None, False, False),
        (Stage.RUNNING, 99.0, False, False),
        (Stage.RUNNING, 101.0, False, True),
        (Stage.RUNNING, 99.0, True, True),
        (Stage.DELIVERING, None, False, False),
        (Stage.DELIVERING, None, True, False),
    ],
)
def test_only_what_can_be_over_in_time_is_waited_for(
    stage: Stage, expected_end: float | None, is_abort: bool, hopeless: bool
) -> None:
    assert Progress(stage, expected_end).is_hopeless(100.0, is_abort=is_abort) is hopeless


def test_how_long_a_pipeline_takes_is_learnt_from_its_runs() -> None:
    durations = Durations(clock=lambda: 1000.0)
    assert durations.expected_end("count") is None

    durations.note("count", 10.0)
    assert durations.expected_end("count") == 1010.0
    durations.note("count", 20.0)
    assert durations.expected_end("count") == pytest.approx(1013.0)
    assert durations.expected_end("another") is None


def test_abort_hands_a_run_back_within_seconds_and_counts_no_attempt(play, toys):
    async def story(site):
        await site.photo()
        body = site.request(HELD)
        async with site.worker(drain_mode="abort", drain_timeout=300.0) as running:
            site.publish(body)
            await site.until(lambda: toys.runs[body["image_id"]] == 1, "the run to begin")
            started = time.monotonic()
            running.worker.stop()
        assert time.monotonic() - started < 10
        # To be had at once, not when a lease is over.
        assert (site.broker.backlog(WORK), site.broker.leased(WORK)) == (1, 0)
        [claim] = [info.name async for info in site.store.list(BUCKET, "acme/results/")]  # and no attempt
        assert orjson.loads((await site.store.read(BUCKET, claim)).data)["state"] == "free"

    play(story)


def test_abort_lets_a_delivery_that_has_begun_finish(play, toys):
    async def story(site):
        await site.photo()
        site.backend.answers = [500]
        async with site.worker(drain_mode="abort") as running:
            site.publish(site.request(LOOK))
            await site.until(lambda: len(site.backend.calls) == 1, "the first try of the callback")
            running.worker.stop()
        assert len(site.backend.accepted("/results")) == 1
        assert site.broker.backlog(WORK) == 0

    play(story)


def test_a_copy_that_only_waits_is_handed_back_at_once_while_the_run_is_finished(play, toys):
    async def story(site):
        await site.photo()
        body = site.request(HELD)
        async with site.worker() as running:
            site.publish(body)
            site.publish(body)
            await site.until(lambda: running.worker.busy == 2, "both to be in hand")
            await site.until(lambda: toys.runs[body["image_id"]] == 1, "the run to begin")
            running.worker.stop()
            await site.until(lambda: running.worker.busy == 1, "the copy to be handed back")
            assert (site.broker.backlog(WORK), site.broker.leased(WORK)) == (2, 1)
            toys.gate.set()
        assert toys.runs[body["image_id"]] == 1
        assert "succeeded" in site.reasons()

    play(story)
