"""Giving a message up, as carefully as delivering a result: nothing is acked before it is kept elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from consumer.errors import CallbackFailed, CorruptRecord
from consumer.failpoints import Point, reach
from consumer.handling import Fence, Handling
from consumer.jobs import Job
from consumer.ledger import GivenUp, Ledger, Leg
from consumer.ops.tracing import fail, span, trace_parent
from consumer.outbound.callback import Backend
from consumer.outbound.dead_letter import DeadLetters
from consumer.outbound.results import ResultsPublisher
from consumer.patience import Patience
from contracts import __version__
from contracts.dead_letter import DeadLetterAttributes
from contracts.result import Failure, ProcessingResult

log = structlog.get_logger()
T = TypeVar("T")

MOST_STEPS = 1000
"""Steps that a failed result tells of, the last ones: it must never be too large to be published."""
_UNKNOWN = Failure(code="unknown", failure_class="internal", message="unknown")


@dataclass(frozen=True, slots=True)
class GivingUp:
    """The legs of giving up, in order: keep, dead-letter, publish, tell the backend, mark.

    Each leg is noted when it is done, so that a redelivery of the same message resumes at the next one.
    """

    ledger: Ledger
    dead_letters: DeadLetters
    results: ResultsPublisher
    backend: Backend
    patience: Patience
    fence: Fence
    subscription: str
    bucket: str

    async def begun(self, handling: Handling, job: Job) -> GivenUp | None:
        """Return how far giving up this message has come, if an earlier delivery began it."""
        message_id = handling.delivery.message_id
        try:
            return await self._with_bucket(lambda: self.ledger.given_up(job, message_id))
        except CorruptRecord:
            return None  # it is written anew

    async def give_up(self, handling: Handling, failure: Failure, attempts: int) -> None:
        """Put the message into the dead-letter topic and tell everybody who waits for it.

        Args:
            handling: the message, and what is known of it.
            failure: why.
            attempts: how many runs failed.
        """
        job = handling.job
        if job is None:
            await self._dead_letter(handling, None, failure, attempts)
            await reach(Point.DEAD_LETTERED)
            return
        given_up = GivenUp(
            failed_result(job, failure, handling), attempts, was_recorded=handling.was_recorded
        )
        with span("record"):
            await self._keep(handling, job, given_up)
            # They are used up; a replay has its own.
            await self._with_bucket(lambda: self.ledger.forget_attempts(job))
        await reach(Point.FAILURE_RECORDED)
        await self.go_on(handling, job, given_up)

    async def go_on(self, handling: Handling, job: Job, given_up: GivenUp) -> None:
        """Do what is left to do. Nothing is told to a backend before tenant, ids and url were checked.

        Of a message whose result is recorded, so that only its delivery failed, readers of the results topic
        are told nothing new.
        """
        result = given_up.result
        if Leg.DEAD_LETTERED not in given_up.legs:
            await self._dead_letter(handling, job, result.error or _UNKNOWN, given_up.attempts)
            await reach(Point.DEAD_LETTERED)
            given_up = await self._done(handling, job, given_up, Leg.DEAD_LETTERED)
        if Leg.PUBLISHED not in given_up.legs and not given_up.was_recorded:
            publish = self._fenced(handling, lambda: self.results.publish(result, None))
            with span("publish results", topic=self.results.topic):
                await self.patience.persist("results topic", publish)
            await reach(Point.FAILURE_PUBLISHED)
            given_up = await self._done(handling, job, given_up, Leg.PUBLISHED)
        if Leg.CALLED_BACK not in given_up.legs and handling.may_reply:
            with span("callback"):
                await self._call_back(handling, job, result)
            await reach(Point.FAILURE_CALLED_BACK)
        await self._keep(handling, job, replace(given_up, done=True))
        await reach(Point.FAILURE_MARKED)

    async def _done(self, handling: Handling, job: Job, given_up: GivenUp, leg: Leg) -> GivenUp:
        given_up = replace(given_up, legs=given_up.legs | {leg})
        await self._keep(handling, job, given_up)
        return given_up

    async def _keep(self, handling: Handling, job: Job, given_up: GivenUp) -> None:
        message_id = handling.delivery.message_id
        await self._with_bucket(lambda: self.ledger.keep_given_up(job, given_up, message_id))

    def _fenced(self, handling: Handling, call: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
        """Return the call, before each try of which lease and claim must cover it: it may wait for hours."""

        async def fenced() -> T:
            await self.fence.check(handling)
            return await call()

        return fenced

    async def _call_back(self, handling: Handling, job: Job, result: ProcessingResult) -> None:
        try:
            await self.patience.persist(
                self.backend.destination(job),
                lambda: self.backend.deliver(job, result, lambda: self.fence.check(handling)),
                about=job.result_id,
                everybody=self.backend.is_everybodys(job),
            )
        except CallbackFailed as error:
            # The dead letter is safe, and the backend has said that it does not want to know.
            fail(error.code)
            log.warning("error_callback_refused", error=str(error))

    async def _dead_letter(
        self, handling: Handling, job: Job | None, failure: Failure, attempts: int
    ) -> None:
        delivery = handling.delivery
        reason = DeadLetterAttributes(
            error_code=failure.code,
            error_class=failure.failure_class,
            error_message=failure.message,
            step_path=failure.step_path,
            attempts=attempts,
            source_subscription=self.subscription,
            source_message_id=delivery.message_id,
            source_publish_time=delivery.publish_time,
            result_id=job.result_id if job else None,
            worker_version=__version__,
            trace_id=_trace_id(trace_parent() or (job.trace_parent if job else None)),
            failed_at=datetime.now(UTC),
            replay_count=job.replay_count if job else 0,
        )
        with span("publish dead letter", topic=self.dead_letters.topic, code=failure.code):
            publish = self._fenced(handling, lambda: self.dead_letters.publish(delivery, reason))
            await self.patience.persist("dead-letter topic", publish)
        log.error(
            "dead_lettered", code=failure.code, failure_class=failure.failure_class, error=failure.message
        )

    async def _with_bucket(self, call: Callable[[], Awaitable[T]]) -> T:
        return await self.patience.persist(f"bucket {self.bucket}", call)


def failed_result(job: Job, failure: Failure, handling: Handling) -> ProcessingResult:
    """Return the result of a job that failed: it tells what was done, as far as this delivery came."""
    begun = handling.begun
    return ProcessingResult(
        result_id=job.result_id,
        tenant_id=job.ids.tenant_id,
        session_id=job.ids.session_id,
        image_id=job.ids.image_id,
        image_url=job.source.url,
        image_generation=begun.image_generation if begun else job.source.generation,
        status="failed",
        error=failure,
        image=begun.image if begun else None,
        steps=tuple(begun.run.steps[-MOST_STEPS:]) if begun else (),
        models=begun.models.report() if begun else (),
        warnings=job.warnings,
        worker_version=__version__,
        started_at=begun.started_at if begun else handling.started_at,
        finished_at=datetime.now(UTC),
    )


def _trace_id(parent: str | None) -> str | None:
    parts = (parent or "").split("-")
    return parts[1] if len(parts) == 4 else None
