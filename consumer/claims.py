"""Claims: who works on a job, so that two workers that hold one message run it once.

A claim is an object `{result_id}.claim`. It is made only where none is, renewed only as the generation that
was written last, and taken over in the same way once its owner is silent: so two workers can never both
believe that they own it and have the store agree. An owner that stood still finds out at its next renewal,
which it makes before anything is told to the outside.

Silent is whose claim did not change for as long as it holds, while we watched by our own monotonic clock. No
two clocks are ever compared.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol
from uuid import uuid4

import structlog
from pydantic import BaseModel, ValidationError

from consumer.errors import FencedOff
from consumer.jobs import Job
from consumer.ledger import object_name
from consumer.storage import ObjectStore, PreconditionFailed, StoredObject
from pipeline_steps.errors import ObjectMissing, StepError

log = structlog.get_logger()

_LETTING_GO = 3.0
"""Seconds that letting go may take: it happens on the way out."""


class _Body(BaseModel):
    owner: str
    message_id: str
    running: bool
    """Whether a run has begun: only then does a worker that is lost count as an attempt."""


@dataclass(eq=False)
class Claim:
    """A job that this worker owns, while `covers` says so."""

    name: str
    message_id: str
    generation: int
    expires: float
    """By the monotonic clock, counted from when the last renewal was sent."""
    clock: Callable[[], float] = field(repr=False)
    was_abandoned: bool = False
    """Whether it was taken over from a worker that was lost while it ran the job."""
    was_taken_over: bool = False
    """Whether it was anybody's before, who may only have been silent."""
    running: bool = True
    lost: bool = False
    renewing: asyncio.Task[None] | None = field(default=None, repr=False)

    def covers(self, seconds: float) -> bool:
        """Tell whether nobody else can own the job within so many seconds."""
        return not self.lost and self.expires - self.clock() > seconds


@dataclass(frozen=True, slots=True)
class Busy:
    """Another worker owns the job."""

    owner: str


class Claims(Protocol):
    """Where jobs are claimed."""

    async def take(self, job: Job, message_id: str) -> Claim | Busy:
        """Claim the job, or say who has it."""
        ...

    async def secure(self, claim: Claim, seconds: float) -> None:
        """Return if the job is ours for so long, after asking the store if need be.

        Raises:
            FencedOff: it is somebody else's by now.
        """
        ...

    async def mark(self, claim: Claim, *, running: bool) -> None:
        """Note whether a run has begun, for whoever takes over.

        Raises:
            FencedOff: somebody has taken over already.
        """
        ...

    async def let_go(self, claim: Claim) -> None:
        """Give the job free; never raises, since a claim that stays is only waited for."""
        ...

    async def clear(self, job: Job) -> None:
        """Remove whatever claim there is on a job that is done: its owner may have been lost."""
        ...


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

    async def take(self, job: Job, message_id: str) -> Claim | Busy:
        """Claim the job; one whose owner has been silent for too long is taken over."""
        name = object_name(job, "claim")
        while True:
            sent = self._clock()
            try:
                generation = await self._write(name, message_id, 0, running=True)
            except PreconditionFailed:
                pass
            else:
                return self._owned(name, message_id, generation, sent)
            try:
                held = await self._store.read(self._bucket, name)
            except ObjectMissing:
                continue  # it was let go of just now
            body = _body(held)
            if not self._is_silent(name, held.info.generation, body):
                return Busy(body.owner if body else "unknown")
            sent = self._clock()
            try:
                generation = await self._write(name, message_id, held.info.generation, running=True)
            except PreconditionFailed:
                continue  # renewed after all, or somebody else was faster
            # What this very process left behind is a failed attempt to let go, not an end of the process.
            was_abandoned = body is None or (body.running and body.owner != self._owner)
            log.warning("claim_taken_over", name=name, owner=body.owner if body else "unknown")
            claim = self._owned(name, message_id, generation, sent)
            claim.was_abandoned, claim.was_taken_over = was_abandoned, True
            return claim

    async def secure(self, claim: Claim, seconds: float) -> None:
        """Return if the job is ours for so long; a claim that ran out while we stood still is asked about."""
        if not claim.lost and not claim.covers(seconds):
            await self._renew(claim)
        if claim.lost:
            raise FencedOff(f"{claim.name} is another worker's by now")

    async def mark(self, claim: Claim, *, running: bool) -> None:
        """Write the claim anew if that says something new."""
        if claim.running != running:
            claim.running = running
            await self._renew(claim)
            if claim.lost:
                raise FencedOff(f"{claim.name} is another worker's by now")

    async def clear(self, job: Job) -> None:
        """Delete the claim, whoever's it is."""
        await self._store.delete(self._bucket, object_name(job, "claim"))

    async def let_go(self, claim: Claim) -> None:
        """Delete the claim if it is still ours."""
        if claim.renewing is not None:
            claim.renewing.cancel()
            with suppress(asyncio.CancelledError):
                await claim.renewing
        if claim.lost:
            return
        try:
            async with asyncio.timeout(_LETTING_GO):
                await self._delete(claim)
        except (StepError, TimeoutError) as error:
            log.warning("claim_stays", name=claim.name, error=str(error) or type(error).__name__)

    def _owned(self, name: str, message_id: str, generation: int, sent: float) -> Claim:
        self._seen.pop(name, None)
        claim = Claim(name, message_id, generation, sent + self._seconds, self._clock)
        claim.renewing = asyncio.create_task(self._keep(claim))
        return claim

    def _is_silent(self, name: str, generation: int, body: _Body | None) -> bool:
        """Tell whether the claim has not been renewed for as long as it holds; ours is not waited for."""
        if body is not None and body.owner == self._owner:
            return True
        known, since = self._seen.get(name, (0, 0.0))
        if known != generation:
            self._seen[name] = (generation, self._clock())
            return False
        return self._clock() - since > self._seconds

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
            claim.generation = await self._write(
                claim.name, claim.message_id, claim.generation, running=claim.running
            )
        except PreconditionFailed:
            # Perhaps by ourselves, if the answer to an earlier renewal never came.
            if not await self._is_ours(claim):
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
        claim.generation = held.info.generation
        return True

    async def _delete(self, claim: Claim) -> None:
        """Delete it, unless it was taken over; a renewal cut short may have moved it on."""
        while not claim.lost:
            try:
                await self._store.delete(self._bucket, claim.name, if_generation_match=claim.generation)
            except PreconditionFailed:
                claim.lost = not await self._is_ours(claim)
            else:
                claim.lost = True

    async def _write(self, name: str, message_id: str, generation: int, *, running: bool) -> int:
        body = _Body(owner=self._owner, message_id=message_id, running=running)
        info = await self._store.write(
            self._bucket,
            name,
            body.model_dump_json().encode(),
            content_type="application/json",
            if_generation_match=generation,
        )
        return info.generation


class NoClaims:
    """`LEDGER=off`: everybody owns everything."""

    async def take(self, job: Job, message_id: str) -> Claim | Busy:
        """Claim it without telling anybody."""
        return Claim(object_name(job, "claim"), message_id, 0, float("inf"), time.monotonic)

    async def secure(self, claim: Claim, seconds: float) -> None:
        """Nobody can have taken it."""

    async def mark(self, claim: Claim, *, running: bool) -> None:
        """Nobody will look."""

    async def clear(self, job: Job) -> None:
        """Nothing to remove."""

    async def let_go(self, claim: Claim) -> None:
        """Nothing to let go of."""


def _body(stored: StoredObject) -> _Body | None:
    try:
        return _Body.model_validate_json(stored.data)
    except ValidationError:
        return None  # not one of ours: it is waited for, and then taken over
