"""What a failed result holds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

from consumer.broker import Delivery
from consumer.broker.leases import Lease
from consumer.giving_up import MOST_STEPS, failed_result
from consumer.handling import Handling
from consumer.jobs import Ids, Job, Source
from consumer.models_used import ModelsUsed
from consumer.pipeline.run import Run
from consumer.progress import Progress
from consumer.running import Begun
from contracts.builders import pipeline
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
