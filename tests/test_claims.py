"""Claims: two workers, each with its own clock, over one bucket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import orjson
import pytest

from consumer.claims import BucketClaims, Busy, Claim
from consumer.errors import FencedOff
from consumer.jobs import Ids, Job, Source, result_id
from consumer.ledger import object_name
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


class Bench:
    def __init__(self, folder: Path) -> None:
        self.store = FilesystemStore(folder)
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

    async def names(self) -> list[str]:
        return [info.name async for info in self.store.list(BUCKET, "acme/results/")]


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


def test_what_is_let_go_of_leaves_nothing_behind_and_can_be_claimed(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        await bench.ours.let_go(await bench.take(bench.ours))

        assert await bench.names() == []
        claim = await bench.take(bench.theirs)
        assert not claim.was_abandoned

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


def test_a_claim_on_what_is_done_can_be_removed_by_anybody(tell: Tell) -> None:
    async def story(bench: Bench) -> None:
        claim = await bench.take(bench.ours)
        await bench.theirs.clear(JOB)

        assert await bench.names() == []
        await bench.ours.let_go(claim)

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
        assert await bench.names() == []

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
