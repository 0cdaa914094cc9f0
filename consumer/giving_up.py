"""Giving a message up, as carefully as delivering a result: nothing is acked before it is kept elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from consumer.broker import Delivery
from consumer.errors import CallbackFailed
from consumer.failpoints import Point, reach
from consumer.jobs import Job
from consumer.ledger import Ledger, Leg
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

Fence = Callable[[], Awaitable[None]]
"""Raises `FencedOff` when another worker may have the message by now."""


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
    subscription: str
    bucket: str

    async def give_up(
        self,
        delivery: Delivery,
        job: Job | None,
        failure: Failure,
        fence: Fence,
        *,
        attempts: int,
        may_reply: bool,
        was_recorded: bool,
    ) -> None:
        """Put the message into the dead-letter topic and tell everybody who waits for it.

        Args:
            delivery: the message as it came.
            job: what it was understood as; None if it could not be.
            failure: why.
            fence: asked before anything is told to the outside.
            attempts: how many runs failed.
            may_reply: whether tenant, ids and url were checked; a wrong `/error` fails a whole session.
            was_recorded: whether a result exists, so that only its delivery failed: then readers of the
                results topic are told nothing new.
        """
        if job is None:
            await fence()
            await self._dead_letter(delivery, None, failure, attempts)
            await reach(Point.DEAD_LETTERED)
            return
        result = failed_result(job, failure)
        with span("record"):
            await self._with_bucket(lambda: self.ledger.record(job, result, delivery.message_id))
        await reach(Point.FAILURE_RECORDED)
        told = Told(job, result, failure, attempts, may_reply=may_reply, was_recorded=was_recorded)
        await self._tell(delivery, told, frozenset(), fence)

    async def resume(
        self,
        delivery: Delivery,
        job: Job,
        result: ProcessingResult,
        legs: frozenset[Leg],
        fence: Fence,
        *,
        was_recorded: bool,
    ) -> None:
        """Go on giving up a message whose giving up was cut short; its tenant, ids and url were checked."""
        failure = result.error or Failure(code="unknown", failure_class="internal", message="unknown")
        told = Told(job, result, failure, attempts=0, may_reply=True, was_recorded=was_recorded)
        await self._tell(delivery, told, legs, fence)

    async def _tell(self, delivery: Delivery, told: Told, done: frozenset[Leg], fence: Fence) -> None:
        job, result = told.job, told.result
        if Leg.DEAD_LETTERED not in done:
            await fence()
            await self._dead_letter(delivery, job, told.failure, told.attempts)
            await reach(Point.DEAD_LETTERED)
            done = await self._done(delivery, told, done | {Leg.DEAD_LETTERED})
        if Leg.PUBLISHED not in done and not told.was_recorded:
            await fence()
            with span("publish results", topic=self.results.topic):
                await self.patience.persist("results topic", lambda: self.results.publish(result, None))
            await reach(Point.FAILURE_PUBLISHED)
            done = await self._done(delivery, told, done | {Leg.PUBLISHED})
        if Leg.CALLED_BACK not in done and told.may_reply:
            await fence()
            with span("callback"):
                await self._call_back(job, result)
            await reach(Point.FAILURE_CALLED_BACK)
        await self._with_bucket(lambda: self.ledger.mark_done(job, result, delivery.message_id))
        await reach(Point.FAILURE_MARKED)

    async def _done(self, delivery: Delivery, told: Told, legs: frozenset[Leg]) -> frozenset[Leg]:
        await self._with_bucket(
            lambda: self.ledger.mark_leg(told.job, told.result, delivery.message_id, legs)
        )
        return legs

    async def _call_back(self, job: Job, result: ProcessingResult) -> None:
        try:
            await self.patience.persist(
                self.backend.destination(job),
                lambda: self.backend.deliver(job, result),
                about=job.result_id,
                everybody=self.backend.is_everybodys(job),
            )
        except CallbackFailed as error:
            # The dead letter is safe, and the backend has said that it does not want to know.
            fail(error.code)
            log.warning("error_callback_refused", error=str(error))

    async def _dead_letter(
        self, delivery: Delivery, job: Job | None, failure: Failure, attempts: int
    ) -> None:
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
            await self.patience.persist(
                "dead-letter topic", lambda: self.dead_letters.publish(delivery, reason)
            )
        log.error(
            "dead_lettered", code=failure.code, failure_class=failure.failure_class, error=failure.message
        )

    async def _with_bucket(self, call: Callable[[], Awaitable[T]]) -> T:
        return await self.patience.persist(f"bucket {self.bucket}", call)


@dataclass(frozen=True, slots=True)
class Told:
    """What everybody is told of a message that is given up."""

    job: Job
    result: ProcessingResult
    failure: Failure
    attempts: int
    may_reply: bool
    was_recorded: bool


def failed_result(job: Job, failure: Failure) -> ProcessingResult:
    """Return the result of a job that failed."""
    now = datetime.now(UTC)
    return ProcessingResult(
        result_id=job.result_id,
        tenant_id=job.ids.tenant_id,
        session_id=job.ids.session_id,
        image_id=job.ids.image_id,
        image_url=job.source.url,
        image_generation=job.source.generation,
        status="failed",
        error=failure,
        warnings=job.warnings,
        worker_version=__version__,
        started_at=now,
        finished_at=now,
    )


def _trace_id(parent: str | None) -> str | None:
    parts = (parent or "").split("-")
    return parts[1] if len(parts) == 4 else None
