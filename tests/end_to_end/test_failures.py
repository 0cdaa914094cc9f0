"""What becomes of a message when something is wrong with it, or with a peer."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from tests.end_to_end.site import WORK

LOOK = {"type": "step", "name": "look"}


def fail(how, **kwargs):
    return {"type": "step", "name": "fail", "kwargs": {"how": how, **kwargs}}


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        ({"pipeline_definition": {"steps": [{"type": "step", "name": "lok"}]}}, "invalid_pipeline", True),
        ({"pipeline_definition": {"steps": "none"}}, "malformed_message", True),
        ({"image_url": "gs://photos/other/originals/a.jpg"}, "not_allowed", False),
        ({"image_url": "gs://photos/acme/../other/a.jpg"}, "not_allowed", False),
        ({"image_url": "gs://elsewhere/acme/a.jpg"}, "not_allowed", False),
        ({"image_url": "gs://photos/acme/originals/missing.jpg"}, "object_missing", True),
        ({"session_id": "not a uuid"}, "malformed_message", False),
        ({"callback_url": "https://evil.example/results"}, "callback_failed", False),
    ],
)
def test_bad_input_is_dead_lettered_with_its_reason(play, change, code, told):
    async def story(site):
        await site.photo()
        async with site.worker():
            site.publish(site.request(LOOK, **change), origin="test")
            await site.until_settled(1)
        [letter] = await site.dead_letters()
        assert letter.attributes["mlworker-error-code"] == code
        assert letter.attributes["mlworker-error-class"] == "permanent"
        assert letter.attributes["origin"] == "test"
        assert len(site.backend.accepted("/error")) == int(told)
        assert site.backend.accepted("/results") == {}
        assert site.broker.backlog(WORK) == 0

    play(story)


def test_bytes_that_are_no_message_are_dead_lettered_untouched(play):
    async def story(site):
        async with site.worker():
            site.publish(b"\xff\x00 not json")
            await site.until_settled(1)
        [letter] = await site.dead_letters()
        assert letter.data == b"\xff\x00 not json"
        assert letter.attributes["mlworker-error-code"] == "malformed_message"

    play(story)


def test_a_step_that_cannot_do_a_photo_gives_it_up_at_once(play, toys):
    async def story(site):
        await site.photo()
        body = site.request(fail("permanent"))
        async with site.worker():
            site.publish(body)
            await site.until_settled(1)
        [letter] = await site.dead_letters()
        assert letter.attributes["mlworker-step-path"] == "steps.0"
        [result] = await site.results()
        assert (result.status, result.error.code) == ("failed", "invalid_input")
        assert toys.runs[body["image_id"]] == 1
        assert site.backend.accepted("/error") == {result.result_id: 1}

    play(story)


def test_an_unforeseen_error_gets_a_second_try_and_then_a_dead_letter(play, toys):
    async def story(site):
        await site.photo()
        body = site.request(fail("internal"))
        async with site.worker():
            site.publish(body)
            await site.until_settled(1)
            assert site.reasons() == ["internal_error"]
            site.broker.advance(11)
            await site.until_settled(2)
        [letter] = await site.dead_letters()
        assert letter.attributes["mlworker-attempts"] == "2"
        assert toys.runs[body["image_id"]] == 2

    play(story)


def test_a_dead_letter_that_is_published_again_runs_again(play, toys):
    async def story(site):
        await site.photo()
        body = site.request(fail("permanent", times=1))
        async with site.worker():
            site.publish(body)
            await site.until_settled(1)
            [letter] = await site.dead_letters()
            site.publish(letter.data, **letter.attributes)
            await site.until_settled(2)
        assert site.reasons() == ["given_up", "succeeded"]

    play(story)


@pytest.mark.parametrize("status", [500, 503])
def test_a_backend_that_is_down_for_a_while_loses_nothing_and_is_called_back_once_each(
    play, toys, status, sizes
):
    async def story(site):
        await site.photo()
        site.backend.down_until = time.monotonic() + sizes.outage
        site.backend.status_when_down = status
        bodies = [site.request(LOOK) for _ in range(6)]
        async with site.worker():
            for body in bodies:
                site.publish(body)
            await site.until_settled(6, sizes.outage + 60)
        assert site.reasons() == ["succeeded"] * 6
        assert await site.dead_letters() == []
        assert sorted(site.backend.accepted("/results").values()) == [1] * 6
        assert all(toys.runs[body["image_id"]] == 1 for body in bodies)

    play(story)


def test_an_expired_key_at_the_backend_holds_everything_and_dead_letters_nothing(play):
    async def story(site):
        await site.photo()
        site.backend.answers = [401, 401]
        async with site.worker() as running:
            site.publish(site.request(LOOK))
            await site.until(lambda: running.patience.misconfigured, "the worker to notice")
            await site.until_settled(1)
        assert site.reasons() == ["succeeded"]
        assert await site.dead_letters() == []

    play(story)


def test_a_callback_the_backend_refuses_is_given_up_and_the_result_stays_published_once(play):
    async def story(site):
        await site.photo()
        site.backend.answers = [422]
        async with site.worker():
            site.publish(site.request(LOOK))
            await site.until_settled(1)
        [result] = await site.results()
        assert result.status == "succeeded"
        [letter] = await site.dead_letters()
        assert letter.attributes["mlworker-error-code"] == "callback_failed"

    play(story)


def test_a_session_the_backend_does_not_know_yet_is_asked_for_again(play):
    async def story(site):
        await site.photo()
        site.backend.answers = [404, 404]
        async with site.worker():
            site.publish(site.request(LOOK))
            await site.until_settled(1)
        assert site.reasons() == ["succeeded"]

    play(story)


@pytest.mark.parametrize("method", ["Publish", "Pull", "Acknowledge", "ModifyAckDeadline"])
def test_a_bad_moment_of_the_broker_is_waited_through(play, toys, method):
    async def story(site):
        await site.photo()
        body = site.request(LOOK)
        site.publish(body)
        site.broker.fail(method, grpc.StatusCode.UNAVAILABLE, times=3)
        async with site.worker():
            await site.until_settled(1, seconds=40)
        assert site.reasons() == ["succeeded"]
        assert toys.runs[body["image_id"]] == 1
        assert await site.dead_letters() == []

    play(story)


def test_a_results_topic_that_does_not_exist_is_waited_for_and_alerts(play):
    async def story(site):
        await site.photo()
        site.publish(site.request(LOOK))
        fault = site.broker.fail("Publish", grpc.StatusCode.NOT_FOUND)
        async with site.worker() as running:
            await site.until(lambda: running.patience.misconfigured, "the worker to notice")
            fault.lift()
            await site.until_settled(1)
        assert site.reasons() == ["succeeded"]

    play(story)


def test_a_pipeline_longer_than_the_ack_deadline_is_delivered_once(play, toys, sizes):
    async def story(site):
        await site.photo()
        body = site.request({"type": "step", "name": "wait", "kwargs": {"seconds": sizes.pipeline}})
        async with site.worker(slots=2):
            site.publish(body)
            await site.until_settled(1, sizes.pipeline + 30)
        assert site.deliveries() == 1
        assert toys.runs[body["image_id"]] == 1
        assert site.reasons() == ["succeeded"]
        assert sum(site.backend.accepted("/results").values()) == 1

    play(story)


def test_work_that_was_recorded_is_delivered_by_another_worker_without_running_again(play, toys):
    async def story(site):
        await site.photo()
        body = site.request(LOOK)
        site.backend.down_until = time.monotonic() + 3600
        site.publish(body)
        async with site.worker(drain_timeout=0.1):
            await site.until(lambda: bool(site.backend.calls), "the first callback to be tried")
        site.backend.down_until = 0.0
        async with site.worker():
            await site.until_settled(1)
        assert site.reasons() == ["succeeded"]
        assert toys.runs[body["image_id"]] == 1
        assert len({result.result_id for result in await site.results()}) == 1

    play(story)


def test_draining_finishes_what_is_running_and_takes_nothing_new(play, toys):
    async def story(site):
        await site.photo()
        first, second = site.request({"type": "step", "name": "wait_for_the_gate"}), site.request(LOOK)
        async with site.worker(slots=1) as running:
            site.publish(first)
            await site.until(lambda: toys.runs[first["image_id"]] == 1, "the first to start")
            site.publish(second)
            running.worker.stop()
            await asyncio.sleep(0)
            toys.gate.set()
        assert site.reasons() == ["succeeded"]
        assert toys.runs[second["image_id"]] == 0
        assert site.broker.backlog(WORK) == 1

    play(story)


def test_draining_hands_back_what_does_not_finish(play, toys):
    async def story(site):
        await site.photo()
        body = site.request({"type": "step", "name": "wait_for_the_gate"})
        site.publish(body)
        async with site.worker(drain_timeout=0.2):
            await site.until(lambda: toys.runs[body["image_id"]] == 1, "it to start")
        assert site.broker.leased(WORK) == 0
        assert site.broker.backlog(WORK) == 1
        toys.gate.set()
        async with site.worker():
            await site.until_settled(1)
        assert site.reasons() == ["succeeded"]

    play(story)


def test_never_more_pipelines_run_than_there_are_slots(play, toys):
    async def story(site):
        await site.photo()
        for _ in range(5):
            site.publish(site.request({"type": "step", "name": "wait_for_the_gate"}))
        async with site.worker(slots=2) as running:
            await site.until(lambda: toys.runs.total() == 2, "two to start")
            assert running.worker.busy == 2
            assert site.broker.leased(WORK) == 2
            toys.gate.set()
            await site.until_settled(5)
        assert toys.runs.total() == 5

    play(story)


def test_a_broker_that_delivers_more_than_was_asked_for_gets_it_back(play, toys):
    async def story(site):
        await site.photo()
        site.broker.over_deliver(3)
        for _ in range(5):
            site.publish(site.request({"type": "step", "name": "wait_for_the_gate"}))
        async with site.worker(slots=2) as running:
            await site.until(lambda: toys.runs.total() == 2, "two to start")
            await site.until(lambda: site.broker.leased(WORK) == 2, "the others to be handed back")
            assert running.worker.busy == 2
            toys.gate.set()
            await site.until_settled(5)
        assert toys.runs.total() == 5

    play(story)
