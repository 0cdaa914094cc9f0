"""What becomes of a message whose handling failed, by the class of the failure (`outcomes.py`)."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from consumer.claims import Claims
from consumer.decode import known_of
from consumer.errors import CallbackFailed, FencedOff, HoldExpired, MalformedMessage, WorkerLost
from consumer.giving_up import GivingUp
from consumer.handling import Handling
from consumer.jobs import Job, result_id
from consumer.ledger import GivenUp, Ledger
from consumer.outbound.callback import Backend
from consumer.outcomes import (
    POLICY,
    Action,
    Outcome,
    Settle,
    attempts_allowed,
    backoff,
    class_of,
    failure_of,
    rest,
)
from consumer.patience import Patience
from consumer.pipeline.run import StepFailed
from consumer.sources import SourceRules
from contracts.pipeline import PipelineDefinition
from pipeline_steps.errors import DeadlineExceeded, NotAllowed

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Failing:
    """Decides between trying again, waiting, forgetting and giving up, and gives up."""

    rules: SourceRules
    ledger: Ledger
    claims: Claims
    backend: Backend
    giving_up: GivingUp
    patience: Patience
    bucket: str
    max_attempts: int

    async def settle(self, handling: Handling, error: Exception) -> Outcome:
        """Decide by the failure's class what becomes of the message."""
        failure, failure_class = failure_of(error), class_of(error)
        action = POLICY[failure_class]
        log.warning(
            "failed",
            code=failure.code,
            failure_class=failure.failure_class,
            step_path=failure.step_path,
            error=failure.message,
            exc_info=error if failure.code == "internal_error" else None,
        )
        if action is Action.FORGET:
            return Outcome(Settle.ACK, failure.code)
        again = rest(handling.delivery.delivery_attempt)
        if action is Action.WAIT or self._is_an_outages(error):
            return Outcome(Settle.HAND_BACK, failure.code, again)
        try:
            if isinstance(error, MalformedMessage):
                self._understand_what_can_be(handling)
            job, attempts = handling.job, 1
            if job is not None and handling.claim is None:
                await self._announce(handling, job)
            # What fails before anything is looked up may have been given up in part by an earlier delivery.
            if job is not None and (begun := await self.giving_up.begun(handling, job)):
                return await self.go_on(handling, job, begun)
            if isinstance(error, WorkerLost):
                attempts = self.max_attempts
            elif action is Action.TRY_AGAIN and job is not None:
                attempts = await self._count(job, failure.code)
                if attempts < attempts_allowed(failure_class, self.max_attempts):
                    return Outcome(Settle.HAND_BACK, failure.code, backoff(attempts))
            await self.giving_up.give_up(handling, failure, attempts)
        except FencedOff as fenced:
            return Outcome(Settle.LEAVE, fenced.code)
        except HoldExpired as hold:
            return Outcome(Settle.HAND_BACK, hold.code, again)
        except Exception as second:
            # Not even giving up worked: the message stays, and is given up when it comes again.
            log.exception("giving_up_failed", error=str(second))
            return Outcome(Settle.HAND_BACK, "giving_up_failed", again)
        return Outcome(Settle.ACK, "given_up", dead_letter=failure.code)

    async def go_on(self, handling: Handling, job: Job, given_up: GivenUp) -> Outcome:
        """Go on with a message whose giving up was cut short."""
        if given_up.done:
            return Outcome(Settle.ACK, "duplicate")
        await self.giving_up.go_on(handling, job, given_up)
        failure = given_up.result.error
        return Outcome(Settle.ACK, "given_up", dead_letter=failure.code if failure else "unknown")

    async def _announce(self, handling: Handling, job: Job) -> None:
        message_id = handling.delivery.message_id
        await self.patience.persist(f"bucket {self.bucket}", lambda: self.claims.announce(job, message_id))

    async def _count(self, job: Job, code: str) -> int:
        counted = await self.patience.persist(
            f"bucket {self.bucket}", lambda: self.ledger.count_attempt(job, code)
        )
        return counted.count

    def _is_an_outages(self, error: Exception) -> bool:
        """Tell whether a step only ended because a peer was away for too long: that uses up no attempt."""
        if not isinstance(error, StepFailed):
            return False
        is_out_of_time = isinstance(error.root, DeadlineExceeded)
        return isinstance(error.root, HoldExpired) or (is_out_of_time and bool(self.patience.waiting))

    def _understand_what_can_be(self, handling: Handling) -> None:
        """Find out whose photo a malformed message was about, so that its tenant can be told."""
        known = known_of(handling.delivery.data)
        if known is None or known.source is None:
            return
        digest = result_id(known.ids, known.source, handling.delivery.data.hex(), {})
        handling.job = Job(
            known.ids, known.source, PipelineDefinition(steps=()), {}, digest, callback_url=known.callback_url
        )
        try:
            self.rules.check(known.ids, known.source)
            self.backend.check(handling.job)
        except (NotAllowed, CallbackFailed):
            return
        handling.may_reply = True
