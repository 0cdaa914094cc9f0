"""A job and its results, as they are delivered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from consumer.jobs import Ids, Job, Source
from contracts.builders import pipeline
from contracts.result import ProcessingResult
from tests.contracts.samples import IMAGE, RESULT, RESULT_ID, SESSION

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
JOB = Job(
    Ids("acme", SESSION, IMAGE),
    Source("nursery-photos", f"acme/originals/{IMAGE}.jpg"),
    pipeline(),
    {},
    RESULT_ID,
    pipeline_name="beds",
)


def job(**changes: Any) -> Job:
    return replace(JOB, **changes)


def result(**changes: Any) -> ProcessingResult:
    return RESULT.model_copy(update=changes)
