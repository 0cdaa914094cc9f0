"""What becomes of a message when all peers are well."""

from __future__ import annotations

import httpx

from tests.end_to_end.site import BUCKET, WORK

LOOK = {"type": "step", "name": "look"}


def test_a_photos_message_ends_as_a_published_result_one_callback_and_an_ack(play, toys):
    async def story(site):
        await site.photo()
        body = site.request(LOOK)
        async with site.worker():
            site.publish(body)
            await site.until_settled(1)
        assert site.reasons() == ["succeeded"]
        assert site.broker.backlog(WORK) == 0
        [result] = await site.results()
        assert (result.status, str(result.image_id)) == ("succeeded", body["image_id"])
        assert site.backend.accepted("/results") == {result.result_id: 1}
        assert toys.runs[body["image_id"]] == 1

    play(story)


def test_the_same_message_three_times_runs_once_and_calls_back_once(play, toys):
    async def story(site):
        await site.photo()
        body = site.request(LOOK)
        async with site.worker():
            for _ in range(3):
                site.publish(body)
            await site.until_settled(3)
        assert sorted(site.reasons()) == ["duplicate", "duplicate", "succeeded"]
        assert toys.runs[body["image_id"]] == 1
        assert sum(site.backend.accepted("/results").values()) == 1

    play(story)


def test_force_runs_again_what_was_recorded(play, toys):
    async def story(site):
        await site.photo()
        body = site.request(LOOK)
        async with site.worker():
            site.publish(body)
            await site.until_settled(1)
            site.publish(body, **{"mlworker-force": "1"})
            await site.until_settled(2)
        assert site.reasons() == ["succeeded", "succeeded"]
        assert toys.runs[body["image_id"]] == 2

    play(story)


def test_a_photo_that_was_replaced_is_processed_anew(play, toys):
    async def story(site):
        await site.photo()
        body = site.request(LOOK)
        async with site.worker():
            site.publish(body)
            await site.until_settled(1)
            await site.photo(note="a new picture under the same name")
            site.publish(body)
            await site.until_settled(2)
        assert toys.runs[body["image_id"]] == 2
        assert len(site.backend.accepted("/results")) == 2

    play(story)


def test_a_photo_that_lands_in_the_bucket_is_processed_and_what_the_worker_writes_is_not(
    play, toys, tmp_path
):
    routes = tmp_path / "routes.yaml"
    routes.write_text(
        f"""
routes:
  - bucket: {BUCKET}
    prefix: "{{tenant_id}}/originals/"
    pipeline: {{steps: [{{type: step, name: look}}, {{type: step, name: store}}]}}
"""
    )

    async def story(site):
        await site.photo()
        async with site.worker(routes_file=routes):
            for name in ("acme/originals/a.jpg", "acme/processed/x.jpg", "elsewhere.jpg"):
                site.publish(b"", **_finalized(name, (await _generation(site, name))))
            await site.until_settled(3)
            [result] = await site.results()
            [copy] = result.artifacts
            name = copy.url.removeprefix(f"gs://{BUCKET}/")
            site.publish(b"", **_finalized(name, await _generation(site, name)))
            await site.until_settled(4)
        assert sorted(site.reasons()) == [
            "ignored_no_route",
            "ignored_own_folder",
            "ignored_own_output",
            "succeeded",
        ]
        assert toys.runs.total() == 1
        assert result.tenant_id == "acme"

    play(story)


def test_other_events_of_a_bucket_are_acked(play):
    async def story(site):
        async with site.worker():
            site.publish(b"", **{**_finalized("acme/originals/a.jpg", 7), "eventType": "OBJECT_DELETE"})
            await site.until_settled(1)
        assert site.reasons() == ["ignored_other_event"]
        assert site.broker.backlog(WORK) == 0

    play(story)


def test_a_messages_own_callback_url_is_called(play):
    async def story(site):
        await site.photo()
        url = f"{site.backend_url}/elsewhere/results"
        async with site.worker():
            site.publish(site.request(LOOK, callback_url=url))
            await site.until_settled(1)
        assert [path for path, *_ in site.backend.calls] == ["/elsewhere/results"]

    play(story)


def test_probes_answer_while_a_step_holds_its_thread(play):
    async def story(site):
        await site.photo()
        hold = {"type": "step", "name": "hold_the_thread", "kwargs": {"seconds": 1.0}}
        async with site.worker() as running, httpx.AsyncClient() as client:
            site.publish(site.request(hold))
            await site.until(lambda: running.worker.busy == 1, "it to start")
            answers = 0
            while not site.settled:
                answers += (await client.get(f"http://127.0.0.1:{running.port}/livez")).is_success
        assert answers > 5
        assert site.reasons() == ["succeeded"]

    play(story)


def test_the_older_named_pipeline_message_is_understood(play, toys, tmp_path):
    presets = tmp_path / "presets.yaml"
    presets.write_text("pipelines: {DETECTION: [look]}\n")

    async def story(site):
        await site.photo()
        body = site.request(LOOK)
        del body["pipeline_definition"], body["settings"]
        async with site.worker(presets_file=presets):
            site.publish({**body, "pipeline": "DETECTION", "options": None, "callback_url": None})
            await site.until_settled(1)
        assert site.reasons() == ["succeeded"]
        [(_, callback, _, _)] = site.backend.calls
        assert callback["metadata"]["pipeline"] == "DETECTION"

    play(story)


def test_without_a_ledger_a_repeated_message_runs_again(play, toys):
    async def story(site):
        await site.photo()
        body = site.request(LOOK)
        async with site.worker(ledger="off"):
            site.publish(body)
            await site.until_settled(1)
            site.publish(body)
            await site.until_settled(2)
        assert toys.runs[body["image_id"]] == 2
        assert [info.name async for info in site.store.list(BUCKET, "acme/results/")] == []

    play(story)


def test_a_result_too_large_for_a_message_is_published_by_reference(play):
    async def story(site):
        await site.photo()
        async with site.worker(claim_check_bytes=10):
            site.publish(site.request(LOOK))
            await site.until_settled(1)
        from contracts.result import ClaimCheck, ProcessingResult
        from tests.end_to_end.site import RESULTS_SUB

        [message] = await site.messages(RESULTS_SUB)
        check = ClaimCheck.model_validate_json(message.data)
        stored = await site.store.read(BUCKET, check.result_url.removeprefix(f"gs://{BUCKET}/"))
        assert ProcessingResult.model_validate_json(stored.data).result_id == check.result_id
        assert len(stored.data) == check.size_bytes

    play(story)


async def _generation(site, name):
    from pipeline_steps.errors import ObjectMissing

    try:
        return (await site.store.stat(BUCKET, name)).generation
    except ObjectMissing:
        return 1


def _finalized(name, generation):
    return {
        "eventType": "OBJECT_FINALIZE",
        "bucketId": BUCKET,
        "objectId": name,
        "objectGeneration": str(generation),
        "payloadFormat": "NONE",
    }
