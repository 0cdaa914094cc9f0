"""Claims: two workers, each with its own clock, over one bucket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from consumer.bucket_claims import BucketClaims
from consumer.claims import Busy, Claim, Done
from consumer.errors import FencedOff
from consumer.jobs import Ids, Job, Source, result_id
from consumer.ledger import object_name
from consumer.storage import StoredObject
from consumer.storage.filesystem import FilesystemStore
from contracts.builders import pipeline

BUCKET = "nursery-photos"
IDS = Ids("acme", UUID(int=1), UUID(int=2))
SOURCE = Source(BUCKET, "acme/originals/bed.jpg")
JOB = Job(IDS, SOURCE, pipeline(), {}, result_id(IDS, SOURCE, {"steps": []}, {}))
NAME = object_name(JOB, "claim")
HOLDS = 60.0


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class Ageing(FilesystemStore):
    """One whose objects are as old as it is told."""

    age = 0.0

    async def read(self, bucket: str, name: str, **options: Any) -> StoredObject:
        stored = await super().read(bucket, name, **options)
        return replace(stored, info=replace(stored.info, age=self.age))


class Bench:
    def __init__(self, folder: Path) -> None:
        self.store = Ageing(folder)
        self.clocks = Clock(), Clock()
        self.ours, self.theirs = (BucketClaims(self.store, BUCKET, HOLDS, clock) for clock in self.clocks)

    async def take(self, claims: BucketClaims) -> Claim:
        claim = await claims.take(JOB, "message")
        assert isinstance(claim, Claim)
        return claim

    async def outlast(self) -> None:
        """Let them watch our claim, which does not change, for longer than it holds."""
        assert isinstance(await self.theirs.take(JOB, "message"), Busy)
        self.clocks[1].now += HOLDS + 1


Story = Callable[[Bench], Awaitable[None]]
Tell = Callable[[Story], None]


@pytest.fixture
def tell(tmp_path: Path) -> Tell:
    """Run a story on a fresh bench."""

    def run(story: Story) -> None:
        async def whole() -> None:
            bench = Bench(tmp_path)
            try:
                await story(bench)
            finally:
                await bench.store.close()

        asyncio.run(whole())

    return run


def test_a_job_is_claimed_by_one_of_many(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        many = [BucketClaims(bench.store, BUCKET, HOLDS) for _ in range(8)]
        answers = await asyncio.gather(*(claims.take(JOB, "message") for claims in many))

        assert [type(answer) for answer in answers].count(Claim) == 1

    tell(story)


def test_the_others_are_told_who_has_it(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        await bench.take(bench.ours)
        answer = await bench.theirs.take(JOB, "message")

        assert isinstance(answer, Busy)
        assert answer.owner == orjson.loads((await bench.store.read(BUCKET, NAME)).data)["owner"]

    tell(story)


def test_the_others_are_told_when_to_look_again_and_anew_at_each_renewal(tell: Tell) -> None:
    async def busy(bench: Bench) -> float:
        answer = await bench.theirs.take(JOB, "message")
        assert isinstance(answer, Busy)
        return answer.silent_in

    async def story(bench: Bench) -> None:
        claim = await bench.take(bench.ours)

        assert await busy(bench) == HOLDS
        bench.clocks[1].now += 50
        assert await busy(bench) == HOLDS - 50
        await bench.ours.secure(claim, HOLDS + 1)
        assert await busy(bench) == HOLDS
        bench.clocks[1].now += HOLDS
        assert (await bench.take(bench.theirs)).was_taken_over

    tell(story)


@pytest.mark.parametrize("age", [0.0, 20.0, HOLDS - 1])
def test_what_the_store_saw_of_a_claims_silence_need_not_be_watched(tmp_path: Path, age: float) -> None:
    async def story() -> None:
        bench = Bench(tmp_path)
        await bench.take(bench.ours)
        bench.store.age = age
        answer = await bench.theirs.take(JOB, "message")
        assert isinstance(answer, Busy)
        assert answer.silent_in == HOLDS - age

        bench.store.age = HOLDS
        assert (await bench.take(bench.theirs)).was_abandoned
        await bench.store.close()

    asyncio.run(story())


def test_a_store_that_thinks_less_of_a_claims_age_later_on_makes_nobody_wait_longer(tmp_path: Path) -> None:
    async def story() -> None:
        bench = Bench(tmp_path)
        await bench.take(bench.ours)
        bench.store.age = HOLDS - 10
        assert isinstance(await bench.theirs.take(JOB, "message"), Busy)

        bench.store.age = 0.0
        bench.clocks[1].now += 10
        assert (await bench.take(bench.theirs)).was_taken_over
        await bench.store.close()

    asyncio.run(story())


def test_whoever_makes_a_claim_knows_that_the_job_is_new_and_nobody_after(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        claim = await bench.take(bench.ours)
        assert claim.is_first
        await bench.ours.let_go(claim)

        assert not (await bench.take(bench.theirs)).is_first

    tell(story)


def test_what_is_let_go_of_can_be_claimed_at_once_and_blames_nobody(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        await bench.ours.let_go(await bench.take(bench.ours))

        claim = await bench.take(bench.theirs)
        assert not claim.was_abandoned
        assert not claim.was_taken_over

    tell(story)


def test_a_job_that_something_is_kept_of_unclaimed_is_new_to_nobody(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        await bench.ours.announce(JOB, "message")

        claim = await bench.take(bench.theirs)
        assert not claim.is_first
        assert not claim.was_abandoned
        await bench.ours.announce(JOB, "message")  # takes nothing from its owner
        await bench.theirs.secure(claim, HOLDS + 1)

    tell(story)


def test_a_job_that_is_done_is_done_for_everybody_for_good(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        claim = await bench.take(bench.ours)
        await bench.ours.finish(claim)
        await bench.ours.let_go(claim)

        for claims in (bench.ours, bench.theirs):
            assert await claims.take(JOB, "another message") == Done("message")

    tell(story)


def test_a_job_whose_record_is_gone_can_be_claimed_although_it_is_done(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        await bench.ours.finish(await bench.take(bench.ours))

        claim = await bench.theirs.take(JOB, "message", though_done=True)
        assert isinstance(claim, Claim)
        assert not claim.is_first
        assert isinstance(await bench.ours.take(JOB, "message"), Busy)

    tell(story)


def test_what_was_delivered_is_done_though_another_has_taken_over(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        claim = await bench.take(bench.ours)
        await bench.outlast()
        theirs = await bench.take(bench.theirs)

        await bench.ours.finish(claim)

        assert await bench.ours.take(JOB, "another message") == Done("message")
        with pytest.raises(FencedOff):
            await bench.theirs.secure(theirs, HOLDS + 1)  # asks the store

    tell(story)


def test_an_end_whose_answer_got_lost_is_not_taken_back(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        claim = await bench.take(bench.ours)
        generation = claim.generation
        await bench.ours.finish(claim)
        claim.generation, claim.lost = generation, False  # as if nothing had been heard of it

        await bench.ours.let_go(claim)

        assert await bench.theirs.take(JOB, "another message") == Done("message")

    tell(story)


def test_a_renewal_amid_the_end_takes_nothing_back(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        claim = await bench.take(bench.ours)
        renewals = (bench.ours.secure(claim, HOLDS + 1) for _ in range(5))
        await asyncio.gather(*renewals, bench.ours.finish(claim), return_exceptions=True)

        assert await bench.theirs.take(JOB, "another message") == Done("message")

    tell(story)


def test_a_claim_whose_owner_fell_silent_is_taken_over_and_said_to_be_abandoned(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        await bench.take(bench.ours)
        await bench.outlast()

        assert (await bench.take(bench.theirs)).was_abandoned

    tell(story)


def test_a_claim_that_is_renewed_is_never_taken_over_however_long_one_waits(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        claim = await bench.take(bench.ours)
        for _ in range(5):
            await bench.outlast()
            await bench.ours.secure(claim, HOLDS + 1)  # renews it
            assert isinstance(await bench.theirs.take(JOB, "message"), Busy)

    tell(story)


def test_whoever_was_lost_before_a_run_began_is_not_counted(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        claim = await bench.take(bench.ours)
        await bench.ours.mark(claim, running=False)
        await bench.outlast()

        assert not (await bench.take(bench.theirs)).was_abandoned

    tell(story)


def test_an_owner_who_stood_still_finds_out_before_he_tells_anybody_anything(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        claim = await bench.take(bench.ours)
        await bench.outlast()
        theirs = await bench.take(bench.theirs)
        bench.clocks[0].now += HOLDS

        with pytest.raises(FencedOff):
            await bench.ours.secure(claim, 10)
        await bench.theirs.secure(theirs, 10)

    tell(story)


def test_an_owner_who_stood_still_while_nobody_came_goes_on(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        claim = await bench.take(bench.ours)
        bench.clocks[0].now += 10 * HOLDS

        await bench.ours.secure(claim, 10)
        assert claim.covers(HOLDS - 1)

    tell(story)


def test_letting_go_of_what_was_taken_over_takes_nothing_from_the_new_owner(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        claim = await bench.take(bench.ours)
        await bench.outlast()
        theirs = await bench.take(bench.theirs)

        await bench.ours.let_go(claim)
        await bench.theirs.secure(theirs, HOLDS + 1)  # asks the store

    tell(story)


def test_a_renewal_whose_answer_got_lost_is_recognised_as_our_own(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        claim = await bench.take(bench.ours)
        generation = claim.generation
        await bench.ours.secure(claim, HOLDS + 1)
        claim.generation = generation  # as if nothing had been heard of it

        await bench.ours.secure(claim, HOLDS + 1)
        await bench.ours.let_go(claim)
        assert not (await bench.take(bench.theirs)).was_taken_over

    tell(story)


def test_a_renewal_whose_answer_got_lost_is_made_again_since_others_know_how_old_it_is(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        claim = await bench.take(bench.ours)
        generation = claim.generation
        await bench.ours.secure(claim, HOLDS + 1)
        written = claim.generation
        claim.generation = generation  # as if nothing had been heard of it

        await bench.ours.secure(claim, HOLDS + 1)
        assert claim.generation > written
        assert (await bench.store.read(BUCKET, NAME)).info.generation == claim.generation

    tell(story)


def test_what_this_process_left_behind_is_no_lost_worker(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        await bench.take(bench.ours)

        assert not (await bench.take(bench.ours)).was_abandoned

    tell(story)


def test_something_else_under_that_name_is_waited_for_and_then_replaced(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        await bench.store.write(BUCKET, NAME, b"not a claim")
        assert isinstance(await bench.ours.take(JOB, "message"), Busy)

        bench.clocks[0].now += HOLDS + 1
        await bench.take(bench.ours)

    tell(story)
