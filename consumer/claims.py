"""Claims: who works on a job, so that two workers that hold one message run it once.

A claim is an object `{result_id}.claim`. It is made only where none is, renewed only as the generation that
was written last, and taken over in the same way once its owner is silent: so two workers can never both
believe that they own it and have the store agree. An owner that stood still finds out at its next renewal,
which it makes before anything is told to the outside.

It stays behind for good, as free or done, and nothing is kept of a job that has none. So whoever makes one
knows that the job is new, and need not look for what others did: most jobs cost three requests, the claim,
the record, and the claim again, which is the mark that all is delivered.

Silent is whose claim did not change for as long as it holds: while we watched by our own monotonic clock, and
before that by the clock of the store, which tells when it was written and when we asked. So what a dead
worker held, and what comes again once its lease has run out, need not be watched. No two clocks are compared.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from consumer.jobs import Job
from consumer.ledger import object_name


class State(StrEnum):
    """What its owner has to say of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    """A run has begun: only then does a worker that is lost count as an attempt."""
    FREE = "free"
    """Its owner let go of it."""
    DONE = "done"
    """Recorded, published and called back; only the ack may be missing."""


@dataclass(eq=False)
class Claim:
    """A job that this worker owns, while `covers` says so."""

    name: str
    message_id: str
    generation: int
    expires: float
    """By the monotonic clock, counted from when the last renewal was sent."""
    clock: Callable[[], float] = field(repr=False)
    is_first: bool = False
    """Whether nobody had it before: nothing is known of the job."""
    was_abandoned: bool = False
    """Whether it was taken over from a worker that was lost while it ran the job."""
    was_taken_over: bool = False
    """Whether somebody held it until then, who may only have been silent."""
    state: State = State.RUNNING
    lost: bool = False
    """Whether it is not ours any more, or was finished with."""
    renewing: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def is_running(self) -> bool:
        """Whether others are told that a run has begun."""
        return self.state is State.RUNNING

    def covers(self, seconds: float) -> bool:
        """Tell whether nobody else can own the job within so many seconds."""
        return not self.lost and self.expires - self.clock() > seconds


@dataclass(frozen=True, slots=True)
class Busy:
    """Another worker owns the job."""

    owner: str
    silent_in: float
    """Seconds until it is taken over, unless it is renewed meanwhile."""


@dataclass(frozen=True, slots=True)
class Done:
    """The job is done."""

    message_id: str
    """Of the message it was done for."""


class Claims(Protocol):
    """Where jobs are claimed."""

    async def take(self, job: Job, message_id: str, *, though_done: bool = False) -> Claim | Busy | Done:
        """Claim the job, or say why not; one that is done only if asked to: its record may be gone."""
        ...

    async def announce(self, job: Job, message_id: str) -> None:
        """Make sure that there is a claim, anybody's, before something is kept of a job not claimed."""
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

    async def finish(self, claim: Claim) -> None:
        """Mark the job as done, for good: everything was delivered."""
        ...

    async def let_go(self, claim: Claim) -> None:
        """Give the job free; never raises, since a claim that stays is only waited for."""
        ...


class NoClaims:
    """`LEDGER=off`: everybody owns everything."""

    async def take(self, job: Job, message_id: str, *, though_done: bool = False) -> Claim | Busy | Done:
        """Claim it without telling anybody."""
        del though_done
        return Claim(object_name(job, "claim"), message_id, 0, float("inf"), time.monotonic)

    async def announce(self, job: Job, message_id: str) -> None:
        """Nobody will look."""

    async def secure(self, claim: Claim, seconds: float) -> None:
        """Nobody can have taken it."""

    async def mark(self, claim: Claim, *, running: bool) -> None:
        """Nobody will look."""

    async def finish(self, claim: Claim) -> None:
        """Nobody will look."""

    async def let_go(self, claim: Claim) -> None:
        """Nothing to let go of."""
