"""Two workers with the same work, and work whose worker was lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from consumer.storage import ObjectInfo, StoredObject
from consumer.storage.filesystem import FilesystemStore
from tests.end_to_end.site import BUCKET, WORK

LOOK = {"type": "step", "name": "look"}
SHORT = {"lease_seconds": 2}
HELD = {"type": "step", "name": "wait_for_the_gate"}


async def kept(site, body) -> list[ObjectInfo]:
    """What the ledger keeps of a request."""
    prefix = f"acme/results/{body['session_id']}/"
    return [info async for info in site.store.list(BUCKET, prefix)]


async def abandon(site, toys, body) -> str:
    """Leave a claim behind, as a worker that is killed in the middle of a run does; return its name."""
    async with site.worker(drain_timeout=0.1, **SHORT) as running:
        site.publish(body)
        await site.until(lambda: toys.runs[body["image_id"]] == 1, "the run to begin")
        [claim] = [info.name for info in await kept(site, body) if info.name.endswith(".claim")]
        owned = (await site.store.read(BUCKET, claim)).data
        running.worker.stop()
    await site.store.write(BUCKET, claim, owned)
    return claim


def test_two_workers_with_the_same_work_run_it_once(play, toys):
    async def story(site):
        await site.photo()
        body = site.request(HELD)
        async with site.worker(slots=1), site.worker(slots=1):
            site.publish(body)
            site.publish(body)
            await site.until(lambda: site.broker.leased(WORK) == 2, "both to be delivered")
            await site.until(lambda: toys.runs[body["image_id"]] == 1, "the run to begin")
            toys.gate.set()
            await site.until_settled(2)
        assert sorted(site.reasons()) == ["duplicate", "succeeded"]
        assert toys.runs[body["image_id"]] == 1
        assert list(site.backend.accepted("/results").values()) == [1]
        assert sorted(info.name.rsplit(".")[-1] for info in await kept(site, body)) == ["claim", "json"]

    play(story)


def test_work_whose_record_was_deleted_is_done_again_for_whoever_asks(play, toys):
    async def story(site):
        await site.photo()
        body = site.request(LOOK)
        async with site.worker():
            site.publish(body)
            await site.until_settled(1)
            [record] = [info.name for info in await kept(site, body) if info.name.endswith(".json")]
            site.publish(body)
            await site.until_settled(2)
            assert toys.runs[body["image_id"]] == 1

            await site.store.delete(BUCKET, record)
            site.publish(body)
            await site.until_settled(3)
        assert site.reasons() == ["succeeded", "duplicate", "succeeded"]
        assert toys.runs[body["image_id"]] == 2
        assert record in [info.name for info in await kept(site, body)]

    play(story)


def test_what_fails_before_it_could_be_claimed_is_no_new_job_to_anybody(play):
    async def story(site):
        await site.photo()
        body = site.request({"type": "step", "name": "of_tomorrow"})
        async with site.worker():
            site.publish(body)
            await site.until_settled(1)
        assert site.reasons() == ["given_up"]
        objects = {info.name.rpartition(".")[2]: info.name for info in await kept(site, body)}
        assert set(objects) == {"claim", "failed"}
        claim = orjson.loads((await site.store.read(BUCKET, objects["claim"])).data)
        assert claim["state"] == "free"

    play(story)


def test_a_run_whose_worker_was_lost_is_counted_and_runs_again_alone(play, toys):
    async def story(site):
        await site.photo()
        bodies = [site.request(HELD) for _ in range(3)]
        await abandon(site, toys, bodies[0])
        async with site.worker(**SHORT):
            for body in bodies[1:]:
                site.publish(body)
            await site.until(lambda: toys.now == 2, "the others to run")
            await site.until(lambda: site.broker.leased(WORK) == 3, "the lost one to be delivered")
            await asyncio.sleep(0.2)  # it must not begin, however long one waits
            assert toys.runs[bodies[0]["image_id"]] == 1
            toys.gate.set()
            await site.until(lambda: site.reasons().count("succeeded") == 3, "all to succeed")
        assert toys.beside[bodies[0]["image_id"]] == 0
        assert await site.dead_letters() == []
        assert not [info for info in await kept(site, bodies[0]) if info.name.endswith("attempts")]

    play(story)


def test_a_run_that_takes_its_worker_down_every_time_is_given_up(play, toys):
    async def story(site):
        await site.photo()
        body = site.request(HELD)
        claim = await abandon(site, toys, body)
        attempts = claim.replace(".claim", ".attempts")
        await site.store.write(BUCKET, attempts, orjson.dumps({"count": 4, "last": "worker_lost"}))
        async with site.worker(**SHORT):
            await site.until(lambda: "given_up" in site.reasons(), "it to be given up")
        [letter] = await site.dead_letters()
        assert letter.attributes["mlworker-error-code"] == "worker_lost"
        assert letter.attributes["mlworker-attempts"] == "5"
        assert toys.runs[body["image_id"]] == 1  # the one that was abandoned

    play(story)


def test_a_run_out_of_memory_is_tried_again_alone(play, toys):
    async def story(site):
        await site.photo()
        body = site.request({"type": "step", "name": "fail", "kwargs": {"how": "memory", "times": 1}})
        async with site.worker():
            site.publish(body)
            await site.until_settled(1)
            assert site.reasons() == ["out_of_memory"]
            [attempts] = [info for info in await kept(site, body) if info.name.endswith(".attempts")]
            stored = await site.store.read(BUCKET, attempts.name)
            assert orjson.loads(stored.data) == {"count": 1, "last": "out_of_memory"}

    play(story)


class SlowPhotos(FilesystemStore):
    """Says when photos are asked for, and when a claim is read; hands photos out when it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked, self.handed_out, self.claim_read = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def read(self, bucket: str, name: str, **options: Any) -> StoredObject:
        if "/originals/" in name:
            self.asked.set()
            await self.handed_out.wait()
        stored = await super().read(bucket, name, **options)
        if name.endswith(".claim"):
            self.claim_read.set()
        return stored


@pytest.mark.parametrize("handed_over", ["recorded by the silent one", "taken over by a third"])
def test_what_another_did_while_an_heir_waited_for_the_photo_is_not_run_again(
    play, toys, tmp_path, handed_over
):
    async def story(site):
        await site.photo()
        body = site.request(LOOK)
        async with site.worker():
            site.publish(body)
            await site.until_settled(1)
        records = {
            info.name: (await site.store.read(BUCKET, info.name)).data for info in await kept(site, body)
        }
        for name in records:
            await site.store.delete(BUCKET, name)
        [result] = [name for name in records if name.endswith(".json")]
        claim = result.replace(".json", ".claim")
        others = orjson.dumps({"owner": "another", "message_id": "1", "state": "running"})
        await site.store.write(BUCKET, claim, others)

        slow = SlowPhotos(tmp_path / "store")
        site.store, quick = slow, site.store
        async with site.worker(**SHORT):
            site.publish(body)
            await asyncio.wait_for(slow.asked.wait(), 30)  # the claim was taken over
            if handed_over == "recorded by the silent one":
                await quick.write(BUCKET, result, records[result])
            else:
                slow.claim_read.clear()
                await quick.write(BUCKET, claim, others)
                await asyncio.wait_for(slow.claim_read.wait(), 30)  # the heir could not renew, and looks why
            slow.handed_out.set()
            await site.until_settled(2)
        settled = "succeeded" if handed_over == "recorded by the silent one" else "lease_lost"
        assert site.reasons() == ["succeeded", settled]
        assert toys.runs[body["image_id"]] == 1

    play(story)
