"""THE STORY of one message: decode, parse, look up, run, record, publish, call back, mark.

Each step here is a line of the message's journey; the details are in the file it calls. The handler returns
an `Outcome`; only the worker speaks to the broker about it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import structlog

from consumer.broker import Delivery
from consumer.broker.leases import Lease
from consumer.claims import Busy, Claim, Claims, Done
from consumer.decode import Decoder, Ignored, Notified
from consumer.delivering import Delivering
from consumer.errors import FencedOff, HoldExpired, WorkerLost
from consumer.failing import Failing
from consumer.failpoints import Point, reach
from consumer.handling import Copies, Fence, Handling
from consumer.jobs import Job
from consumer.ledger import Attempts, Entry, Ledger
from consumer.ops.tracing import note, span
from consumer.outbound.callback import Backend
from consumer.outcomes import SUSPICIOUS, WORKER_LOST, Outcome, Settle, rest
from consumer.patience import Patience
from consumer.pipeline.nodes import Pipeline
from consumer.pipeline.parse import parse
from consumer.progress import Durations, Progress, Stage
from consumer.run_gate import RunGate
from consumer.running import Runner
from consumer.sources import SourceRules
from consumer.storage import ObjectStore
from contracts.result import ProcessingResult
from pipeline_steps.errors import ModelUnavailable, ObjectMissing, Superseded
from pipeline_steps.models import ModelCatalogue
from pipeline_steps.registry import StepRegistry

log = structlog.get_logger()
T = TypeVar("T")

CLAIM_LOOK = 2.0
"""Seconds between two looks at whether another worker is done with the same job."""


@dataclass
class Handler:
    """Handles deliveries with what `app.py` gave it."""

    decoder: Decoder
    rules: SourceRules
    steps: StepRegistry
    models: ModelCatalogue
    store: ObjectStore
    ledger: Ledger
    claims: Claims
    runner: Runner
    delivering: Delivering
    backend: Backend
    patience: Patience
    bucket: str
    max_attempts: int
    pipeline_timeout: float
    fence: Fence
    failing: Failing
    claim_patience: float
    """Seconds for which another worker's claim is waited for with the message in hand."""
    on_warning: Callable[[], None] = lambda: None
    durations: Durations = field(default_factory=Durations)
    gate: RunGate = field(default_factory=RunGate)
    copies: Copies = field(default_factory=Copies)

    async def handle(self, delivery: Delivery, lease: Lease, progress: Progress) -> Outcome:
        """Handle one delivery, and never raise but for cancellation."""
        handling = Handling(delivery, lease, progress)
        try:
            outcome = await self._handle(handling)
        finally:
            await self._let_go(handling)
        return replace(outcome, lingering=handling.begun.run.lingering if handling.begun else frozenset())

    async def _handle(self, handling: Handling) -> Outcome:
        try:
            await reach(Point.DELIVERED)
            return await self._process(handling)
        except FencedOff as error:
            return Outcome(Settle.LEAVE, error.code)
        except HoldExpired as error:
            return Outcome(Settle.HAND_BACK, error.code, rest(handling.delivery.delivery_attempt))
        except Exception as error:  # noqa: BLE001 (every error ends here, and `Failing` hands it on)
            handling.progress.stage = Stage.DELIVERING  # what is left is short, and a drain waits for it
            return await self.failing.settle(handling, error)

    async def _process(self, handling: Handling) -> Outcome:
        with span("decode message"):
            job = await self._decode(handling)
        if isinstance(job, Ignored):
            return Outcome(Settle.ACK, f"ignored_{job.reason}")
        handling.job = job
        names = {
            "tenant_id": job.ids.tenant_id,
            "session_id": str(job.ids.session_id),
            "image_id": str(job.ids.image_id),
            "result_id": job.result_id,
        }
        structlog.contextvars.bind_contextvars(**names)
        note(**names)
        self.rules.check(job.ids, job.source)
        self.backend.check(job)
        handling.may_reply = True
        with span("parse pipeline"):
            pipeline = self._parse(job)
        for warning in (*job.warnings, *pipeline.warnings):
            log.warning("message_warning", warning=warning)
            self.on_warning()
        await reach(Point.PARSED)
        if self.patience.is_taken(self.backend.destination(job)):
            again = rest(handling.delivery.delivery_attempt)
            return Outcome(Settle.HAND_BACK, "callback_host_away", again)
        async with self.copies.one_at_a_time(job.result_id):
            return await self._claim_and_work(handling, job, pipeline)

    async def _claim_and_work(self, handling: Handling, job: Job, pipeline: Pipeline) -> Outcome:
        """Look up what was done, as the only worker that may go on with it."""
        message_id = handling.delivery.message_id
        waited_since, though_done = self.patience.clock(), False
        while True:
            take = partial(self.claims.take, job, message_id, though_done=though_done)
            claim = await self._with_bucket("claim", take)
            if isinstance(claim, Busy):
                if self.patience.clock() - waited_since > self.claim_patience:
                    again = rest(handling.delivery.delivery_attempt)
                    return Outcome(Settle.HAND_BACK, "claimed_by_another", again)
                await asyncio.sleep(min(CLAIM_LOOK, self.fence.seconds, claim.silent_in))
                continue
            if isinstance(claim, Claim):
                handling.claim = claim
                await reach(Point.CLAIMED)
            entry = await self._look_up(job, message_id, claim)
            if entry.job.result_id != job.result_id:
                # The photo was replaced: another piece of work, with a claim of its own.
                await self._let_go(handling)
                handling.job, though_done = (job := entry.job), False
            elif isinstance(claim, Claim):
                return await self._resume_or_run(handling, claim, pipeline, entry)
            elif claim.message_id == message_id or entry.result is not None:
                return Outcome(Settle.ACK, "duplicate")
            else:  # somebody deleted what was recorded, so that it is done again
                though_done = True

    async def _look_up(self, job: Job, message_id: str, claim: Claim | Done) -> Entry:
        """Ask for as much as the claim leaves open."""
        match claim:
            case Claim(is_first=True):
                return Entry(job)
            case Claim():
                return await self._with_bucket("look up", partial(self.ledger.look_up, job, message_id))
            case Done() if claim.message_id == message_id:
                return Entry(job)
            case Done():
                return await self._with_bucket("look up", partial(self.ledger.recorded, job, message_id))

    async def _resume_or_run(
        self, handling: Handling, claim: Claim, pipeline: Pipeline, entry: Entry
    ) -> Outcome:
        message_id, job = handling.delivery.message_id, entry.job
        result, attempts = entry.result, entry.attempts
        if entry.given_up is not None:
            handling.progress.stage = Stage.DELIVERING
            return await self.failing.go_on(handling, job, entry.given_up)
        if result is None:
            attempts = await self._attempts(handling, job, attempts)
            done = await self._run(handling, job, pipeline, alone=attempts.last in SUSPICIOUS)
            if done is None:
                await self._let_go(handling)
                return await self._claim_and_work(handling, job, pipeline)
            result = await self._with_bucket("record", lambda: self.ledger.record(job, done, message_id))
            await reach(Point.RECORDED)
        handling.was_recorded = True
        handling.progress.stage = Stage.DELIVERING
        await self.delivering.deliver(handling, job, result)
        if attempts.count:
            await self._with_bucket("forget attempts", lambda: self.ledger.forget_attempts(job))
        await self._with_bucket("mark done", partial(self.claims.finish, claim))
        handling.claim = None
        await reach(Point.MARKED)
        log.info(result.status, status=result.status, resumed=entry.result is not None)
        return Outcome(Settle.ACK, result.status)

    async def _attempts(self, handling: Handling, job: Job, earlier: Attempts) -> Attempts:
        """Count the run that never ended, if the job's last worker was lost while it had it.

        Raises:
            WorkerLost: it has happened too often.
        """
        if handling.claim is None or not handling.claim.was_abandoned:
            return earlier
        attempts = await self._with_bucket(
            "count attempt", lambda: self.ledger.count_attempt(job, WORKER_LOST)
        )
        handling.claim.was_abandoned = False
        if attempts.count >= self.max_attempts:
            raise WorkerLost(f"{attempts.count} runs failed, or ended because their worker did")
        return attempts

    async def _run(
        self, handling: Handling, job: Job, pipeline: Pipeline, *, alone: bool
    ) -> ProcessingResult | None:
        """Run the pipeline; alone, if an earlier run may have brought its worker down.

        None, if that worker was only silent, and has recorded its result meanwhile.
        """
        try:
            return await self._run_in_turn(handling, job, pipeline, alone=alone)
        except ModelUnavailable:
            # Waited for without the photo, and where nobody else waits behind it.
            handling.progress.stage = Stage.WAITING
            await self._mark(handling, running=False)
            await self.runner.until_models_load(job, pipeline)
            return await self._run_in_turn(handling, job, pipeline, alone=alone)

    async def _run_in_turn(
        self, handling: Handling, job: Job, pipeline: Pipeline, *, alone: bool
    ) -> ProcessingResult | None:
        if not self.gate.is_free(alone=alone):
            await self._mark(handling, running=False)  # what does not run is not to blame
        async with self.gate.enter(alone=alone):
            await self._mark(handling, running=True)
            handling.progress.stage = Stage.RUNNING
            handling.progress.expected_end = self.durations.expected_end(pipeline.kind)
            started = self.durations.clock()
            done = await self.runner.run(
                job,
                pipeline,
                may_begin=partial(self._may_begin, handling, job),
                begun=partial(setattr, handling, "begun"),
            )
            if done is not None:
                self.durations.note(pipeline.kind, self.durations.clock() - started)
        await reach(Point.RUN)
        return done

    async def _may_begin(self, handling: Handling, job: Job) -> bool:
        """Look once more: while photo and models were waited for, another may have done the job, or taken it.

        Raises:
            FencedOff: it is another worker's by now.
        """
        if (claim := handling.claim) is None:
            return True
        if not claim.covers(0):
            await self._with_bucket("secure claim", lambda: self.claims.secure(claim, 0))
        if not claim.was_taken_over:
            return True
        message_id = handling.delivery.message_id
        entry = await self._with_bucket("look up", partial(self.ledger.look_up, job, message_id))
        return entry.result is None and (entry.given_up is None or not entry.given_up.done)

    async def _let_go(self, handling: Handling) -> None:
        claim, handling.claim = handling.claim, None
        if claim is not None:
            with span("let go of claim"):
                await self.claims.let_go(claim)

    async def _mark(self, handling: Handling, *, running: bool) -> None:
        claim = handling.claim
        if claim is not None and claim.is_running != running:
            await self._with_bucket("mark claim", lambda: self.claims.mark(claim, running=running))

    async def _decode(self, handling: Handling) -> Job | Ignored:
        decoded = self.decoder.decode(handling.delivery)
        if not isinstance(decoded, Notified):
            return decoded
        seen = decoded.notification
        self.rules.check_object(seen.bucket, seen.name)
        try:
            info = await self._with_bucket(
                "stat", lambda: self.store.stat(seen.bucket, seen.name, generation=seen.generation)
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

    async def _with_bucket(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        with span(name):
            return await self.patience.persist(f"bucket {self.bucket}", call)
