"""Claims as objects in the bucket, beside the ledger's records; what they are for is told in `claims.py`."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

import structlog
from pydantic import BaseModel, ValidationError

from consumer.claims import Busy, Claim, Done, State
from consumer.errors import FencedOff
from consumer.jobs import Job
from consumer.ledger import object_name
from consumer.storage import ObjectInfo, ObjectStore, PreconditionFailed, StoredObject
from pipeline_steps.errors import ObjectMissing, StepError

log = structlog.get_logger()

_MOST_SEEN = 1000
"""Claims of others that are remembered."""
_LETTING_GO = 3.0
"""Seconds that letting go may take: it happens on the way out."""


class _Body(BaseModel):
    owner: str
    message_id: str
    state: State

    @property
    def is_held(self) -> bool:
        """Whether its owner has not ended it."""
        return self.state in {State.WAITING, State.RUNNING}


class BucketClaims:
    """Claims in the bucket, beside the ledger's records.

    Args:
        store: keeps them.
        bucket: where.
        seconds: how long a claim holds without renewal; it is renewed every quarter of that.
        clock: monotonic.
    """

    def __init__(
        self, store: ObjectStore, bucket: str, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._bucket = bucket
        self._seconds = seconds
        self._clock = clock
        self._owner = f"{socket.gethostname()}/{os.getpid()}/{uuid4().hex[:8]}"
        self._seen: dict[str, tuple[int, float]] = {}
        """The generation of others' claims, and since when it has not changed."""

    async def take(self, job: Job, message_id: str, *, though_done: bool = False) -> Claim | Busy | Done:
        """Claim the job; one whose owner has been silent for too long is taken over."""
        name = object_name(job, "claim")
        while True:
            sent = self._clock()
            try:
                generation = await self._write(name, message_id, State.RUNNING, 0)
            except PreconditionFailed:
                pass
            else:
                expires = sent + self._seconds
                return self._owned(Claim(name, message_id, generation, expires, self._clock, is_first=True))
            try:
                held = await self._store.read(self._bucket, name)
            except ObjectMissing:
                continue  # somebody deleted it just now
            body = _body(held)
            state = body.state if body else State.RUNNING
            if body and state is State.DONE and not though_done:
                return Done(body.message_id)
            is_held = body is None or body.is_held
            if is_held and (left := self._silent_in(held.info, body)) > 0:
                return Busy(body.owner if body else "unknown", left)
            sent = self._clock()
            try:
                generation = await self._write(name, message_id, State.RUNNING, held.info.generation)
            except PreconditionFailed:
                continue  # renewed after all, or somebody else was faster
            claim = self._owned(Claim(name, message_id, generation, sent + self._seconds, self._clock))
            if is_held:
                log.warning("claim_taken_over", name=name, owner=body.owner if body else "unknown")
                # What this very process left behind is a failed attempt to let go, not an end of the process.
                is_anothers = body is None or body.owner != self._owner
                claim.was_abandoned, claim.was_taken_over = state is State.RUNNING and is_anothers, True
            return claim

    async def announce(self, job: Job, message_id: str) -> None:
        """Make a free claim where there is none."""
        with suppress(PreconditionFailed):
            await self._write(object_name(job, "claim"), message_id, State.FREE, 0)

    async def secure(self, claim: Claim, seconds: float) -> None:
        """Return if the job is ours for so long; a claim that ran out while we stood still is asked about."""
        if not claim.lost and not claim.covers(seconds):
            await self._renew(claim)
        if claim.lost:
            raise FencedOff(f"{claim.name} is another worker's by now")

    async def mark(self, claim: Claim, *, running: bool) -> None:
        """Write the claim anew if that says something new."""
        state = State.RUNNING if running else State.WAITING
        if claim.state is not state:
            claim.state = state
            await self._renew(claim)
            if claim.lost:
                raise FencedOff(f"{claim.name} is another worker's by now")

    async def finish(self, claim: Claim) -> None:
        """Write that the job is done, whoever has it by now: it is."""
        await self._end(claim, State.DONE)
        if claim.lost:
            await self._write(claim.name, claim.message_id, State.DONE, None)
        claim.lost = True
        await _stop_renewing(claim)

    async def let_go(self, claim: Claim) -> None:
        """Write that the job is free, if it is still ours."""
        await _stop_renewing(claim)
        if claim.lost:
            return
        try:
            async with asyncio.timeout(_LETTING_GO):
                await self._end(claim, State.FREE)
        except (StepError, TimeoutError) as error:
            log.warning("claim_stays", name=claim.name, error=str(error) or type(error).__name__)
        claim.lost = True

    def _owned(self, claim: Claim) -> Claim:
        self._seen.pop(claim.name, None)
        claim.renewing = asyncio.create_task(self._keep(claim))
        return claim

    def _silent_in(self, held: ObjectInfo, body: _Body | None) -> float:
        """Return in how many seconds the claim, unless renewed, is silent; ours is not waited for."""
        if body is not None and body.owner == self._owner:
            return 0.0
        since = self._clock() - held.age
        known, earlier = self._seen.pop(held.name, (0, since))
        if known == held.generation:
            since = min(since, earlier)
        self._seen[held.name] = (held.generation, since)
        if len(self._seen) > _MOST_SEEN:
            del self._seen[next(iter(self._seen))]  # others may have finished those long ago
        return since + self._seconds - self._clock()

    async def _keep(self, claim: Claim) -> None:
        while not claim.lost:
            await asyncio.sleep(self._seconds / 4)
            try:
                await self._renew(claim)
            except StepError as error:
                # The claim may run out meanwhile; then `secure` decides.
                log.warning("claim_not_renewed", name=claim.name, error=str(error))

    async def _renew(self, claim: Claim) -> None:
        sent = self._clock()
        try:
            claim.generation = await self._write(claim.name, claim.message_id, claim.state, claim.generation)
        except PreconditionFailed:
            # Perhaps by ourselves, if the answer to an earlier renewal never came. It is as old as that, and
            # the store tells others so: it is renewed now.
            if await self._is_ours(claim):
                await self._renew(claim)
            else:
                claim.lost = True
            return
        claim.expires = sent + self._seconds

    async def _is_ours(self, claim: Claim) -> bool:
        try:
            held = await self._store.read(self._bucket, claim.name)
        except ObjectMissing:
            return False
        body = _body(held)
        if body is None or body.owner != self._owner or body.message_id != claim.message_id:
            return False
        if not body.is_held:  # an end of ours whose answer never came, which nothing may take back
            return False
        claim.generation = held.info.generation
        return True

    async def _end(self, claim: Claim, state: State) -> None:
        """Write it for the last time, unless it was taken over; a renewal may have moved it on."""
        while not claim.lost:
            try:
                await self._write(claim.name, claim.message_id, state, claim.generation)
            except PreconditionFailed:
                claim.lost = not await self._is_ours(claim)
            else:
                return

    async def _write(self, name: str, message_id: str, state: State, generation: int | None) -> int:
        body = _Body(owner=self._owner, message_id=message_id, state=state)
        info = await self._store.write(
            self._bucket,
            name,
            body.model_dump_json().encode(),
            content_type="application/json",
            if_generation_match=generation,
        )
        return info.generation


async def _stop_renewing(claim: Claim) -> None:
    if claim.renewing is not None:
        claim.renewing.cancel()
        with suppress(asyncio.CancelledError):
            await claim.renewing


def _body(stored: StoredObject) -> _Body | None:
    try:
        return _Body.model_validate_json(stored.data)
    except ValidationError:
        return None  # not one of ours: it is waited for, and then taken over
