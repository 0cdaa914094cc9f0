"""Delivering a recorded result: publish it, then call the backend back."""

from __future__ import annotations

from dataclasses import dataclass

from consumer.failpoints import Point, reach
from consumer.handling import Fence, Handling
from consumer.jobs import Job
from consumer.ledger import Ledger
from consumer.ops.tracing import span
from consumer.outbound.callback import Backend
from consumer.outbound.results import ResultsPublisher
from consumer.patience import Patience
from contracts.result import ProcessingResult


@dataclass(frozen=True, slots=True)
class Delivering:
    """The legs between recording and marking, each tried again until it succeeds or is refused for good."""

    ledger: Ledger
    results: ResultsPublisher
    backend: Backend
    patience: Patience
    fence: Fence
    bucket: str

    async def deliver(self, handling: Handling, job: Job, result: ProcessingResult) -> None:
        """Publish, then call back; before each try lease and claim must cover it.

        Raises:
            FencedOff: another worker may have the job by now.
            CallbackFailed: the backend refuses this result.
            HoldExpired: one of the two has been away for too long.
        """
        url = None
        if self.results.needs_claim_check(result):
            with span("claim check"):
                url = await self.patience.persist(
                    f"bucket {self.bucket}", lambda: self.ledger.claim(job, result)
                )

        async def publish() -> str:
            await self.fence.check(handling)
            return await self.results.publish(result, url)

        async def call_back() -> None:
            await self.backend.deliver(job, result, lambda: self.fence.check(handling))

        with span("publish results", topic=self.results.topic):
            await self.patience.persist("results topic", publish)
        await reach(Point.PUBLISHED)
        with span("callback"):
            await self.patience.persist(
                self.backend.destination(job),
                call_back,
                about=job.result_id,
                everybody=self.backend.is_everybodys(job),
            )
        await reach(Point.CALLED_BACK)
