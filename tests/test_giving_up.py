"""What a failed result holds, and what stops its telling."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

import pytest

from consumer.broker import BrokerUnavailable, Delivery
from consumer.broker.leases import Lease
from consumer.errors import FencedOff
from consumer.giving_up import MOST_STEPS, GivingUp, failed_result
from consumer.handling import Fence, Handling
from consumer.jobs import Ids, Job, Source
from consumer.ledger import Ledger
from consumer.models_used import ModelsUsed
from consumer.outbound.callback import Backend
from consumer.outbound.dead_letter import DeadLetters
from consumer.outbound.results import ResultsPublisher
from consumer.patience import Patience
from consumer.pipeline.run import Run
from consumer.progress import Progress
from consumer.running import Begun
from contracts.builders import pipeline
from contracts.dead_letter import DeadLetterAttributes
from contracts.result import Failure
from pipeline_steps.context import Deadline, TenantStore
from pipeline_steps.models import Models

IDS = Ids("acme", UUID(int=1), UUID(int=2))
JOB = Job(IDS, Source("photos", "acme/a.jpg"), pipeline(), {}, "3f" * 32)
FAILURE = Failure(code="invalid_input", failure_class="permanent", message="no", step_path="steps.0")


def test_a_failed_result_of_very_many_steps_tells_of_the_last_ones_and_fits_into_a_message() -> None:
    models = ModelsUsed(cast("Models", None))
    run = Run(JOB.info, models, cast("TenantStore", None), Deadline.after(60), ThreadPoolExecutor(1))
    for item in range(20 * MOST_STEPS):
        run.report(f"steps.2.map[{item}].body.steps.0", "classification", "succeeded", 0.001)
    run.report("steps.2.map[7].body.steps.1", "size_calculator", "failed", 0.001)
    delivery = Delivery("ack", "1", b"", {}, datetime.now(UTC), None)
    handling = Handling(delivery, cast("Lease", None), Progress())
    handling.begun = Begun(run, models, handling.started_at, None, 7)

    result = failed_result(JOB, FAILURE, handling)

    assert len(result.steps) == MOST_STEPS
    assert result.steps[-1].status == "failed"
    assert len(result.model_dump_json()) < 1_000_000
    assert result.image_generation == 7


@dataclass
class AwayOnce:
    """A dead-letter topic that nobody reaches at the first try."""

    topic: str = "dead-letters"
    tries: int = 0

    async def publish(self, delivery: Delivery, reason: DeadLetterAttributes) -> None:
        self.tries += 1
        raise BrokerUnavailable("away")


@dataclass
class LostWhileWaiting:
    """A lease that is there at first, and not any more after a wait."""

    checks: int = 0

    async def check(self, handling: Handling) -> None:
        self.checks += 1
        if self.checks > 1:
            raise FencedOff("lost")


def test_a_lease_lost_while_the_dead_letter_topic_is_away_ends_the_giving_up() -> None:
    topic, fence = AwayOnce(), LostWhileWaiting()
    giving_up = GivingUp(
        ledger=cast("Ledger", None),
        dead_letters=cast("DeadLetters", topic),
        results=cast("ResultsPublisher", None),
        backend=cast("Backend", None),
        patience=Patience(hold_timeout=60, wait_initial=0.01),
        fence=cast("Fence", fence),
        subscription="work",
        bucket="photos",
    )
    delivery = Delivery("ack", "1", b"", {}, datetime.now(UTC), None)

    with pytest.raises(FencedOff):
        asyncio.run(giving_up.give_up(Handling(delivery, cast("Lease", None), Progress()), FAILURE, 1))

    assert topic.tries == 1
