"""THE STORY of one message: decode, parse, look up, run, record, publish, call back, mark.

Each step here is a line of the message's journey; the details are in the file it calls. The handler returns
an `Outcome`; only the worker speaks to the broker about it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from consumer.broker import Delivery
from consumer.broker.leases import Lease
from consumer.decode import Decoder, Ignored, Notified, known_of
from consumer.errors import CallbackFailed, FencedOff, HoldExpired, MalformedMessage
from consumer.giving_up import GivingUp
from consumer.jobs import Job, result_id
from consumer.ledger import Ledger
from consumer.outbound.callback import Backend
from consumer.outbound.results import ResultsPublisher
from consumer.outcomes import POLICY, Action, Outcome, Settle, attempts_allowed, backoff, class_of, failure_of
from consumer.patience import Patience
from consumer.pipeline.nodes import Pipeline
from consumer.pipeline.parse import parse
from consumer.pipeline.run import Run, StepFailed
from consumer.running import Runner
from consumer.sources import SourceRules
from consumer.storage import ObjectStore
from contracts.pipeline import PipelineDefinition
from contracts.result import ProcessingResult
from pipeline_steps.errors import DeadlineExceeded, NotAllowed, ObjectMissing, Superseded
from pipeline_steps.models import ModelCatalogue
from pipeline_steps.registry import StepRegistry

log = structlog.get_logger()
T = TypeVar("T")

FENCE = 30.0
"""Seconds of lease that must be left before something is told to the outside."""
FIRST_EXTENSION = 10.0
"""Seconds to wait for the news that a message just delivered is leased for long enough."""
TENANT_BUSY = 5.0
"""Seconds after which a message comes again whose tenant holds all the slots it may."""
WAIT_AGAIN = 60.0
"""Seconds after which a message that waits for an operator comes again."""


@dataclass
class Handling:
    """What is known of one delivery while it is handled."""

    delivery: Delivery
    lease: Lease
    job: Job | None = None
    may_reply: bool = False
    """Whether tenant, ids and url have been checked."""
    was_recorded: bool = False
    run: Run | None = None


@dataclass
class Handler:
    """Handles deliveries; everything it needs was given to it by `app.py`."""

    decoder: Decoder
    rules: SourceRules
    steps: StepRegistry
    models: ModelCatalogue
    store: ObjectStore
    ledger: Ledger
    runner: Runner
    results: ResultsPublisher
    backend: Backend
    giving_up: GivingUp
    patience: Patience
    bucket: str
    max_attempts: int
    pipeline_timeout: float
    tenant_concurrency: int
    on_warning: Callable[[], None] = lambda: None
    _of_tenant: Counter[str] = field(default_factory=Counter)
    _in_hand: dict[str, _Turn] = field(default_factory=dict)

    async def handle(self, delivery: Delivery, lease: Lease) -> Outcome:
        """Handle one delivery, and never raise but for cancellation."""
        handling = Handling(delivery, lease)
        try:
            outcome = await self._handle(handling)
        except FencedOff as error:
            outcome = Outcome(Settle.LEAVE, error.code)
        except HoldExpired as error:
            outcome = Outcome(Settle.HAND_BACK, error.code, WAIT_AGAIN)
        except Exception as error:  # noqa: BLE001 (every error ends here, and `_failed` hands it on)
            outcome = await self._failed(handling, error)
        lingering = handling.run.lingering if handling.run else frozenset()
        return Outcome(outcome.settle, outcome.reason, outcome.delay, lingering)

    async def _handle(self, handling: Handling) -> Outcome:
        job = await self._decode(handling)
        if isinstance(job, Ignored):
            return Outcome(Settle.ACK, f"ignored_{job.reason}")
        handling.job = job
        structlog.contextvars.bind_contextvars(
            tenant_id=job.ids.tenant_id,
            session_id=str(job.ids.session_id),
            image_id=str(job.ids.image_id),
            result_id=job.result_id,
        )
        self.rules.check(job.ids, job.source)
        self.backend.check(job)
        handling.may_reply = True
        pipeline = self._parse(job)
        for warning in (*job.warnings, *pipeline.warnings):
            log.warning("message_warning", warning=warning)
            self.on_warning()
        tenant = job.ids.tenant_id
        if self._of_tenant[tenant] >= self.tenant_concurrency:
            return Outcome(Settle.HAND_BACK, "tenant_busy", TENANT_BUSY)
        self._of_tenant[tenant] += 1
        try:
            async with self._one_at_a_time(job.result_id):
                return await self._resume_or_run(handling, job, pipeline)
        finally:
            self._of_tenant[tenant] -= 1

    async def _resume_or_run(self, handling: Handling, job: Job, pipeline: Pipeline) -> Outcome:
        message_id = handling.delivery.message_id
        entry = await self._with_bucket(lambda: self.ledger.look_up(job, message_id))
        handling.job = job = entry.job
        if entry.done:
            return Outcome(Settle.ACK, "duplicate")
        if entry.result is not None and entry.result.status == "failed":
            await self.giving_up.resume(handling.delivery, job, entry.result, was_recorded=entry.was_recorded)
            return Outcome(Settle.ACK, "given_up")
        result = entry.result
        if result is None:
            done = await self.runner.run(job, pipeline, lambda run: setattr(handling, "run", run))
            result = await self._with_bucket(lambda: self.ledger.record(job, done, message_id))
        handling.was_recorded = True
        await self._deliver(handling, job, result)
        await self._with_bucket(lambda: self.ledger.mark_done(job, result, message_id))
        log.info(result.status, status=result.status, resumed=entry.result is not None)
        return Outcome(Settle.ACK, result.status)

    async def _deliver(self, handling: Handling, job: Job, result: ProcessingResult) -> None:
        """Publish, then call back; before each try the lease must cover it."""
        url = None
        if self.results.needs_claim_check(result):
            url = await self._with_bucket(lambda: self.ledger.claim(job, result))

        async def publish() -> str:
            await self._fence(handling.lease)
            return await self.results.publish(result, url)

        async def call_back() -> None:
            await self._fence(handling.lease)
            await self.backend.deliver(job, result)

        await self.patience.persist("results topic", publish)
        await self.patience.persist(self.backend.destination(job), call_back)

    async def _decode(self, handling: Handling) -> Job | Ignored:
        decoded = self.decoder.decode(handling.delivery)
        if not isinstance(decoded, Notified):
            return decoded
        seen = decoded.notification
        try:
            info = await self._with_bucket(
                lambda: self.store.stat(seen.bucket, seen.name, generation=seen.generation)
            )
        except ObjectMissing as error:
            raise Superseded(f"gs://{seen.bucket}/{seen.name}#{seen.generation} is gone") from error
        return self.decoder.job_of(seen, info.metadata, handling.delivery)

    def _parse(self, job: Job) -> Pipeline:
        return parse(
            job.definition,
            self.steps,
            settings=job.settings,
            models=self.models,
            pipeline_timeout=self.pipeline_timeout,
        )

    async def _failed(self, handling: Handling, error: Exception) -> Outcome:
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
            if action is Action.TRY_AGAIN and handling.job is not None:
                job = handling.job
                attempts = await self._with_bucket(lambda: self.ledger.count_attempt(job, failure.code))
                if attempts < attempts_allowed(failure_class, self.max_attempts):
                    return Outcome(Settle.HAND_BACK, failure.code, backoff(attempts))
            if isinstance(error, MalformedMessage):
                self._understand_what_can_be(handling)
            await self.giving_up.give_up(
                handling.delivery,
                handling.job,
                failure,
                attempts=attempts,
                may_reply=handling.may_reply,
                was_recorded=handling.was_recorded,
            )
        except HoldExpired as hold:
            return Outcome(Settle.HAND_BACK, hold.code, WAIT_AGAIN)
        except Exception as second:
            # Not even giving up worked: the message stays, and is given up when it comes again.
            log.exception("giving_up_failed", error=str(second))
            return Outcome(Settle.HAND_BACK, "giving_up_failed", WAIT_AGAIN)
        return Outcome(Settle.ACK, "given_up")

    def _is_an_outages(self, error: Exception) -> bool:
        """Tell whether a step only ended because a peer was away for too long: that uses up no attempt."""
        if not isinstance(error, StepFailed):
            return False
        is_out_of_time = isinstance(error.root, DeadlineExceeded)
        return isinstance(error.root, HoldExpired) or (is_out_of_time and bool(self.patience.outages))

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

    async def _with_bucket(self, call: Callable[[], Awaitable[T]]) -> T:
        return await self.patience.persist(f"bucket {self.bucket}", call)

    @asynccontextmanager
    async def _one_at_a_time(self, name: str) -> AsyncIterator[None]:
        """Let copies of one message wait for each other: the second finds what the first recorded."""
        turn = self._in_hand.setdefault(name, _Turn())
        turn.copies += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.copies -= 1
            if turn.copies == 0:
                del self._in_hand[name]

    @staticmethod
    async def _fence(lease: Lease) -> None:
        """Stop before a side effect if another worker may have the message by now."""
        if not await lease.secured(FENCE, timeout=FIRST_EXTENSION):
            raise FencedOff(f"the lease covers {lease.remaining():.0f} s, less than {FENCE:g} s")


@dataclass
class _Turn:
    """The copies of one message that this process holds."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    copies: int = 0
