"""What becomes of a message whose handling failed, by the class of the failure (`outcomes.py`)."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from consumer.decode import known_of
from consumer.errors import CallbackFailed, FencedOff, HoldExpired, MalformedMessage, WorkerLost
from consumer.giving_up import GivingUp
from consumer.handling import Fence, Handling
from consumer.jobs import Job, result_id
from consumer.ledger import Ledger
from consumer.outbound.callback import Backend
from consumer.outcomes import (
    POLICY,
    WAIT_AGAIN,
    Action,
    Outcome,
    Settle,
    attempts_allowed,
    backoff,
    class_of,
    failure_of,
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
    backend: Backend
    giving_up: GivingUp
    patience: Patience
    fence: Fence
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
        if action is Action.WAIT or self._is_an_outages(error):
            return Outcome(Settle.HAND_BACK, failure.code, WAIT_AGAIN)
        attempts = 1
        try:
            if isinstance(error, WorkerLost):
                attempts = self.max_attempts
            elif action is Action.TRY_AGAIN and handling.job is not None:
                job = handling.job
                counted = await self.patience.persist(
                    f"bucket {self.bucket}", lambda: self.ledger.count_attempt(job, failure.code)
                )
                attempts = counted.count
                if attempts < attempts_allowed(failure_class, self.max_attempts):
                    return Outcome(Settle.HAND_BACK, failure.code, backoff(attempts))
            if isinstance(error, MalformedMessage):
                self._understand_what_can_be(handling)
            await self.giving_up.give_up(
                handling.delivery,
                handling.job,
                failure,
                lambda: self.fence.check(handling),
                attempts=attempts,
                may_reply=handling.may_reply,
                was_recorded=handling.was_recorded,
            )
        except FencedOff as fenced:
            return Outcome(Settle.LEAVE, fenced.code)
        except HoldExpired as hold:
            return Outcome(Settle.HAND_BACK, hold.code, WAIT_AGAIN)
        except Exception as second:
            # Not even giving up worked: the message stays, and is given up when it comes again.
            log.exception("giving_up_failed", error=str(second))
            return Outcome(Settle.HAND_BACK, "giving_up_failed", WAIT_AGAIN)
        return Outcome(Settle.ACK, "given_up", dead_letter=failure.code)

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
