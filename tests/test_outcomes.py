"""What every failure is called, which class it is of, and what is done about that class."""

from __future__ import annotations

import errno

import pytest

from consumer.broker import BrokerMisconfigured, BrokerUnavailable, MessageTooLarge
from consumer.errors import CallbackFailed, MalformedMessage, WorkerLost
from consumer.outcomes import POLICY, Action, attempts_allowed, backoff, class_of, failure_of, rest
from consumer.pipeline.parse import InvalidPipeline
from consumer.pipeline.problems import Problem
from consumer.pipeline.run import StepFailed
from contracts.failure import FailureClass
from pipeline_steps.errors import (
    DeadlineExceeded,
    DeviceOverloaded,
    InvalidInput,
    ModelMismatch,
    ModelUnavailable,
    NotAllowed,
    ObjectMissing,
    StoreMisconfigured,
    StoreUnavailable,
    Superseded,
    UnreadableImage,
)

PROBLEMS = [Problem("steps.1.name", "no step is named 'x'"), Problem("steps.2", "needs Image")]
ERRORS: list[tuple[Exception, FailureClass, str, str | None]] = [
    (MalformedMessage(PROBLEMS), FailureClass.PERMANENT, "malformed_message", None),
    (InvalidPipeline(PROBLEMS), FailureClass.PERMANENT, "invalid_pipeline", "steps.1.name"),
    (NotAllowed("x"), FailureClass.PERMANENT, "not_allowed", None),
    (ObjectMissing("x"), FailureClass.PERMANENT, "object_missing", None),
    (UnreadableImage("x"), FailureClass.PERMANENT, "unreadable_image", None),
    (ModelMismatch("x"), FailureClass.PERMANENT, "model_mismatch", None),
    (StoreUnavailable("x"), FailureClass.TRANSIENT, "store_unavailable", None),
    (StoreMisconfigured("x"), FailureClass.CONFIGURATION, "store_misconfigured", None),
    (Superseded("x"), FailureClass.SUPERSEDED, "superseded", None),
    (DeadlineExceeded("x"), FailureClass.INTERNAL, "pipeline_timeout", None),
    (BrokerUnavailable("x"), FailureClass.TRANSIENT, "broker_error", None),
    (BrokerMisconfigured("x"), FailureClass.CONFIGURATION, "broker_error", None),
    (MessageTooLarge("x"), FailureClass.PERMANENT, "broker_error", None),
    (CallbackFailed("x", FailureClass.NOT_FOUND), FailureClass.NOT_FOUND, "callback_failed", None),
    (CallbackFailed("x", FailureClass.TRANSIENT), FailureClass.TRANSIENT, "callback_failed", None),
    (ZeroDivisionError("x"), FailureClass.INTERNAL, "internal_error", None),
    (MemoryError("x"), FailureClass.TRANSIENT, "out_of_memory", None),
    (StepFailed("steps.3", "mine", MemoryError()), FailureClass.TRANSIENT, "out_of_memory", "steps.3"),
    (OSError(errno.ENOSPC, "x"), FailureClass.TRANSIENT, "out_of_resources", None),
    (
        StepFailed("steps.3", "mine", OSError(errno.EMFILE, "x")),
        FailureClass.TRANSIENT,
        "out_of_resources",
        "steps.3",
    ),
    (
        StepFailed("steps.3", "mine", OSError(errno.EIO, "x")),
        FailureClass.INTERNAL,
        "internal_error",
        "steps.3",
    ),
    (WorkerLost("x"), FailureClass.INTERNAL, "worker_lost", None),
    (
        StepFailed("steps.3", "detection", InvalidInput("x")),
        FailureClass.PERMANENT,
        "invalid_input",
        "steps.3",
    ),
    (
        StepFailed("steps.3", "detection", DeviceOverloaded("x")),
        FailureClass.TRANSIENT,
        "device_overloaded",
        "steps.3",
    ),
    (
        StepFailed("steps.3", "detection", ModelUnavailable("x")),
        FailureClass.CONFIGURATION,
        "model_unavailable",
        "steps.3",
    ),
    (StepFailed("steps.3", "mine", KeyError("x")), FailureClass.INTERNAL, "internal_error", "steps.3"),
    (
        StepFailed(
            "steps.3", "1 of 3 succeeded", StepFailed("steps.3.steps.1", "detection", InvalidInput("x"))
        ),
        FailureClass.PERMANENT,
        "invalid_input",
        "steps.3",
    ),
]


@pytest.mark.parametrize(
    ("error", "failure_class", "code", "path"), ERRORS, ids=lambda value: str(value)[:40]
)
def test_every_error_has_a_class_a_code_and_where_it_can_a_place(
    error: Exception, failure_class: FailureClass, code: str, path: str | None
) -> None:
    failure = failure_of(error)

    assert class_of(error) is failure_class
    assert (failure.code, failure.failure_class, failure.step_path) == (code, failure_class.value, path)
    assert failure.message == str(error)


def test_a_message_with_several_problems_tells_all_of_them() -> None:
    assert failure_of(InvalidPipeline(PROBLEMS)).message == (
        "steps.1.name: no step is named 'x'; steps.2: needs Image"
    )


def test_an_error_without_words_is_told_by_its_name() -> None:
    assert failure_of(ZeroDivisionError()).message == "ZeroDivisionError"
    assert failure_of(StepFailed("steps.0", "mine", KeyError())).message == "steps.0 (mine): KeyError"


def test_a_very_long_reason_is_cut() -> None:
    assert len(failure_of(InvalidInput("x" * 100_000)).message) == 8000


def test_every_class_has_an_action() -> None:
    assert POLICY == {
        FailureClass.PERMANENT: Action.GIVE_UP,
        FailureClass.NOT_FOUND: Action.GIVE_UP,
        FailureClass.TRANSIENT: Action.TRY_AGAIN,
        FailureClass.INTERNAL: Action.TRY_AGAIN,
        FailureClass.CONFIGURATION: Action.WAIT,
        FailureClass.SUPERSEDED: Action.FORGET,
    }
    assert set(POLICY) == set(FailureClass)


@pytest.mark.parametrize(
    ("failure_class", "most", "allowed"),
    [
        (FailureClass.TRANSIENT, 5, 5),
        (FailureClass.TRANSIENT, 1, 1),
        (FailureClass.INTERNAL, 5, 2),
        (FailureClass.INTERNAL, 1, 1),
    ],
)
def test_an_error_nobody_foresaw_gets_fewer_attempts(
    failure_class: FailureClass, most: int, allowed: int
) -> None:
    assert attempts_allowed(failure_class, most) == allowed


@pytest.mark.parametrize(("deliveries", "minutes"), [(20, 2 * 60 + 25), (100, 15 * 60 + 45)])
def test_a_message_that_waits_for_a_peer_has_deliveries_left_for_longer_than_the_longest_hold(
    deliveries: int, minutes: int
) -> None:
    rests = [rest(attempt) for attempt in range(1, deliveries)]

    assert sum(rests) == minutes * 60
    assert (min(rests), max(rests)) == (60, 600)


def test_where_nobody_counts_deliveries_a_message_that_waits_comes_again_every_minute() -> None:
    assert rest(None) == 60


def test_waits_between_attempts_double_up_to_five_minutes() -> None:
    assert [backoff(attempt) for attempt in range(1, 9)] == [10, 20, 40, 80, 160, 300, 300, 300]
