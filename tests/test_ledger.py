"""What is known of a piece of work after a crash, a redelivery, a replay, or a photo that was replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import orjson
import pytest

from consumer.errors import CorruptRecord
from consumer.jobs import Ids, Job, Source, of_generation, result_id
from consumer.ledger import Attempts, BucketLedger, Entry, GivenUp, Leg
from consumer.no_ledger import NoLedger
from consumer.storage.filesystem import FilesystemStore
from contracts.builders import pipeline
from contracts.result import Failure, ImageInfo, ProcessingResult

BUCKET = "nursery-photos"
PHOTO = "acme/originals/bed.jpg"
IDS = Ids("acme", UUID(int=1), UUID(int=2))
FOLDER = f"acme/results/{UUID(int=1)}/{UUID(int=2)}"
OURS, ANOTHERS = "message-1", "message-2"


def job_of(generation: int | None = None) -> Job:
    source = Source(BUCKET, PHOTO, generation)
    return Job(IDS, source, pipeline(), {}, result_id(IDS, source, {"steps": []}, {}))


JOB = job_of()


def result(
    job: Job = JOB, *, generation: int | None = None, note: str = "", failed: bool = False
) -> ProcessingResult:
    moment = datetime(2025, 4, 1, tzinfo=UTC)
    return ProcessingResult(
        result_id=job.result_id,
        tenant_id="acme",
        session_id=IDS.session_id,
        image_id=IDS.image_id,
        image_url=job.source.url,
        image_generation=generation,
        status="failed" if failed else "succeeded",
        error=Failure(code="step_failed", failure_class="permanent", message=note) if failed else None,
        warnings=(note,),
        worker_version="0.1.0",
        started_at=moment,
        finished_at=moment,
    )


class Bench:
    """A ledger in a bucket that holds one photo."""

    def __init__(self, folder: Path) -> None:
        self.store = FilesystemStore(folder)
        self.ledger = BucketLedger(self.store, BUCKET)

    async def put_photo(self, pixels: bytes = b"a bed") -> int:
        return (await self.store.write(BUCKET, PHOTO, pixels)).generation

    async def names(self) -> list[str]:
        return [info.name async for info in self.store.list(BUCKET, "acme/results/")]


@pytest.fixture
def tell(tmp_path: Path) -> Callable[[Callable[[Bench], Awaitable[None]]], None]:
    """Run a story on a fresh bench."""

    def run(story: Callable[[Bench], Awaitable[None]]) -> None:
        async def whole() -> None:
            bench = Bench(tmp_path)
            try:
                await bench.put_photo()
                await story(bench)
            finally:
                await bench.store.close()

        asyncio.run(whole())

    return run


Tell = Callable[[Callable[[Bench], Awaitable[None]]], None]


class TestRecords:
    def test_of_new_work_nothing_is_known(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            assert await bench.ledger.look_up(JOB, OURS) == Entry(JOB)
            assert await bench.names() == []

        tell(story)

    def test_recorded_work_is_resumed_by_its_own_message(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            done = result(generation=await bench.put_photo())

            assert await bench.ledger.record(JOB, done, OURS) == done

            assert await bench.ledger.look_up(JOB, OURS) == Entry(JOB, done)

        tell(story)

    def test_recorded_work_is_resumed_by_another_message_about_the_same_photo(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            done = result(generation=await bench.put_photo())
            await bench.ledger.record(JOB, done, OURS)

            assert await bench.ledger.look_up(JOB, ANOTHERS) == Entry(JOB, done)

        tell(story)

    def test_whoever_asks_for_the_record_alone_is_told_the_same(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            assert await bench.ledger.recorded(JOB, OURS) == Entry(JOB)
            done = result(generation=await bench.put_photo())
            await bench.ledger.record(JOB, done, OURS)
            await bench.ledger.count_attempt(JOB, "store_unavailable")

            assert await bench.ledger.recorded(JOB, OURS) == Entry(JOB, done)
            assert await bench.ledger.recorded(JOB, ANOTHERS) == Entry(JOB, done)
            replaced = await bench.put_photo(b"another bed")
            renewed = replace(JOB, result_id=of_generation(JOB.result_id, replaced))
            assert await bench.ledger.recorded(JOB, ANOTHERS) == Entry(renewed)

        tell(story)

    def test_the_first_record_of_a_piece_of_work_is_the_one_that_counts(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            generation = await bench.put_photo()
            first, second = (result(generation=generation, note=note) for note in ("first", "second"))
            await bench.ledger.record(JOB, first, OURS)

            assert await bench.ledger.record(JOB, second, ANOTHERS) == first
            assert await bench.ledger.record(JOB, first, OURS) == first
            assert (await bench.ledger.look_up(JOB, ANOTHERS)).result == first

        tell(story)

    def test_of_two_that_record_at_once_both_get_the_same(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            generation = await bench.put_photo()
            results = [result(generation=generation, note=str(i)) for i in range(8)]

            kept = await asyncio.gather(
                *(bench.ledger.record(JOB, one, f"message-{i}") for i, one in enumerate(results))
            )

            assert len({one.warnings for one in kept}) == 1

        tell(story)

    def test_a_record_lies_beside_the_tenants_pictures_and_can_be_read_by_anybody(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            done = result(generation=await bench.put_photo())
            await bench.ledger.record(JOB, done, OURS)
            await bench.ledger.count_attempt(JOB, "store_unavailable")

            names = [f"{FOLDER}/{JOB.result_id}.{ending}" for ending in ("attempts", "json")]
            assert await bench.names() == names
            stored = await bench.store.read(BUCKET, names[-1])
            assert ProcessingResult.model_validate_json(stored.data) == done
            assert (stored.info.content_type, stored.info.metadata) == (
                "application/json",
                {"message-id": OURS},
            )
            assert await bench.ledger.claim(JOB, done) == f"gs://{BUCKET}/{names[-1]}"

        tell(story)


class TestReplacedPhotos:
    def test_a_replaced_photo_is_new_work_for_another_message(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            await bench.ledger.record(JOB, result(generation=await bench.put_photo()), OURS)
            replaced = await bench.put_photo(b"another bed")

            entry = await bench.ledger.look_up(JOB, ANOTHERS)

            assert entry.result is None
            assert entry.job == replace(JOB, result_id=of_generation(JOB.result_id, replaced))

        tell(story)

    def test_its_own_message_still_resumes_what_it_recorded(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            done = result(generation=await bench.put_photo())
            await bench.ledger.record(JOB, done, OURS)
            await bench.put_photo(b"another bed")

            assert await bench.ledger.look_up(JOB, OURS) == Entry(JOB, done)

        tell(story)

    def test_the_new_work_is_recorded_under_its_own_identity_beside_the_old(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            old = result(generation=await bench.put_photo(), note="old")
            await bench.ledger.record(JOB, old, OURS)
            generation = await bench.put_photo(b"another bed")
            renewed = (await bench.ledger.look_up(JOB, ANOTHERS)).job
            new = result(renewed, generation=generation, note="new")

            assert await bench.ledger.record(renewed, new, ANOTHERS) == new

            assert await bench.ledger.look_up(JOB, "message-3") == Entry(renewed)
            assert await bench.ledger.look_up(renewed, "message-3") == Entry(renewed, new)
            assert await bench.ledger.look_up(JOB, OURS) == Entry(JOB, old)

        tell(story)

    def test_replaced_once_more_it_is_new_work_once_more(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            await bench.ledger.record(JOB, result(generation=await bench.put_photo()), OURS)
            generation = await bench.put_photo(b"second")
            second = (await bench.ledger.look_up(JOB, ANOTHERS)).job
            await bench.ledger.record(second, result(second, generation=generation), ANOTHERS)
            await bench.put_photo(b"third")

            third = await bench.ledger.look_up(second, "message-3")

            assert third.result is None
            assert len({JOB.result_id, second.result_id, third.job.result_id}) == 3

        tell(story)

    def test_of_a_photo_that_is_gone_what_was_seen_stays_true(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            done = result(generation=await bench.put_photo())
            await bench.ledger.record(JOB, done, OURS)
            await bench.store.delete(BUCKET, PHOTO)

            assert await bench.ledger.look_up(JOB, ANOTHERS) == Entry(JOB, done)

        tell(story)

    def test_work_whose_message_names_the_generation_stays_what_it_was(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            generation = await bench.put_photo()
            pinned = job_of(generation)
            done = result(pinned, generation=generation)
            await bench.ledger.record(pinned, done, OURS)
            await bench.put_photo(b"another bed")

            assert await bench.ledger.look_up(pinned, ANOTHERS) == Entry(pinned, done)

        tell(story)

    def test_work_that_read_no_photo_does_not_mind(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            done = result(generation=None)
            await bench.ledger.record(JOB, done, OURS)
            await bench.put_photo(b"another bed")

            assert await bench.ledger.look_up(JOB, ANOTHERS) == Entry(JOB, done)

        tell(story)


class TestFailures:
    def test_giving_up_is_resumed_by_the_message_that_was_given_up(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            begun = GivenUp(result(failed=True), 5)
            await bench.ledger.keep_given_up(JOB, begun, OURS)

            assert await bench.ledger.look_up(JOB, OURS) == Entry(JOB, given_up=begun)

            ended = replace(begun, done=True)
            await bench.ledger.keep_given_up(JOB, ended, OURS)
            assert await bench.ledger.look_up(JOB, OURS) == Entry(JOB, given_up=ended)

        tell(story)

    def test_another_message_runs_as_if_nothing_had_been(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            await bench.ledger.keep_given_up(JOB, GivenUp(result(failed=True), 1, done=True), OURS)

            assert await bench.ledger.look_up(JOB, ANOTHERS) == Entry(JOB)
            assert await bench.ledger.given_up(JOB, ANOTHERS) is None

        tell(story)

    def test_a_replay_that_succeeds_is_recorded_beside_the_failure(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            await bench.ledger.keep_given_up(JOB, GivenUp(result(failed=True), 1, done=True), OURS)
            done = result(generation=await bench.put_photo())

            assert await bench.ledger.record(JOB, done, ANOTHERS) == done
            assert await bench.ledger.look_up(JOB, ANOTHERS) == Entry(JOB, done)
            assert await bench.ledger.look_up(JOB, "message-3") == Entry(JOB, done)

        tell(story)

    def test_work_that_was_recorded_and_could_not_be_delivered_is_given_up_all_the_same(
        self, tell: Tell
    ) -> None:
        async def story(bench: Bench) -> None:
            done = result(generation=await bench.put_photo())
            begun = GivenUp(result(failed=True), 1, was_recorded=True)
            await bench.ledger.record(JOB, done, OURS)
            await bench.ledger.keep_given_up(JOB, begun, OURS)

            assert (await bench.ledger.look_up(JOB, OURS)).given_up == begun
            assert await bench.ledger.look_up(JOB, ANOTHERS) == Entry(JOB, done)

        tell(story)


class TestAttempts:
    def test_failed_runs_are_counted(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            counted = [await bench.ledger.count_attempt(JOB, code) for code in ("a", "b", "c")]

            assert counted == [Attempts(1, "a"), Attempts(2, "b"), Attempts(3, "c")]
            assert (await bench.ledger.look_up(JOB, OURS)).attempts == Attempts(3, "c")
            stored = await bench.store.read(BUCKET, f"{FOLDER}/{JOB.result_id}.attempts")
            assert orjson.loads(stored.data) == {"count": 3, "last": "c"}

        tell(story)

    def test_two_that_count_at_once_are_both_counted(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            counted = await asyncio.gather(*(bench.ledger.count_attempt(JOB, "x") for _ in range(12)))

            assert sorted(attempts.count for attempts in counted) == list(range(1, 13))

        tell(story)

    def test_every_piece_of_work_has_its_own(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            await bench.ledger.count_attempt(JOB, "x")

            assert (await bench.ledger.count_attempt(job_of(5), "x")).count == 1

        tell(story)

    def test_they_are_forgotten_with_the_work(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            await bench.ledger.count_attempt(JOB, "x")
            await bench.ledger.forget_attempts(JOB)

            assert await bench.names() == []

        tell(story)


class TestGivingUp:
    def test_what_is_done_about_a_failure_is_known_to_the_next_delivery(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            assert await bench.ledger.given_up(JOB, OURS) is None

            begun = GivenUp(result(failed=True), 5)
            told = replace(begun, legs=frozenset({Leg.DEAD_LETTERED, Leg.PUBLISHED}))
            for step in (begun, told, replace(told, was_recorded=True), replace(told, done=True)):
                await bench.ledger.keep_given_up(JOB, step, OURS)

                assert await bench.ledger.given_up(JOB, OURS) == step

        tell(story)


class TestCorruptRecords:
    @pytest.mark.parametrize(
        "data", [b"", b"not JSON", b"{}", None], ids=["empty", "text", "bare", "anothers"]
    )
    def test_what_is_not_this_jobs_result_is_never_delivered(self, tell: Tell, data: bytes | None) -> None:
        async def story(bench: Bench) -> None:
            another = result(job_of(7)).model_dump_json().encode()
            name = f"{FOLDER}/{JOB.result_id}.json"
            await bench.store.write(BUCKET, name, another if data is None else data)

            with pytest.raises(CorruptRecord, match=f"gs://{BUCKET}/{name}"):
                await bench.ledger.look_up(JOB, OURS)

        tell(story)

    def test_a_result_that_a_newer_worker_recorded_is_read_as_far_as_it_is_known(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            known = result().model_copy(
                update={"image": ImageInfo(width=1, height=2, orientation_applied=False)}
            )
            record = known.model_dump(mode="json") | {"new": 1}
            record["image"] |= {"newer": [True]}
            await bench.store.write(BUCKET, f"{FOLDER}/{JOB.result_id}.json", orjson.dumps(record))

            assert (await bench.ledger.look_up(JOB, OURS)).result == known

        tell(story)


class TestWithoutLedger:
    def test_nothing_is_remembered_but_the_attempts_in_this_process(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            ledger = NoLedger(bench.store, BUCKET)

            assert await ledger.record(JOB, result(), OURS) == result()
            assert await ledger.look_up(JOB, OURS) == await ledger.recorded(JOB, OURS) == Entry(JOB)
            assert [(await ledger.count_attempt(JOB, "x")).count for _ in range(2)] == [1, 2]
            assert (await ledger.count_attempt(job_of(5), "x")).count == 1
            await ledger.forget_attempts(JOB)
            assert (await ledger.count_attempt(JOB, "x")).count == 1
            assert await bench.names() == []

        tell(story)

    def test_a_result_too_large_for_a_message_is_written_all_the_same(self, tell: Tell) -> None:
        async def story(bench: Bench) -> None:
            ledger = NoLedger(bench.store, BUCKET)

            url = await ledger.claim(JOB, result(note="large"))

            assert url == f"gs://{BUCKET}/{FOLDER}/{JOB.result_id}.json"
            stored = await bench.store.read(BUCKET, f"{FOLDER}/{JOB.result_id}.json")
            assert ProcessingResult.model_validate_json(stored.data) == result(note="large")
            assert await ledger.look_up(JOB, OURS) == Entry(JOB)

        tell(story)
