"""What goes wrong outside of steps.

Each error knows its failure class (`contracts/failure.py`); `outcomes.py` decides by it::

    Failed                       has .code, .failure_class, .step_path
      + MalformedMessage           permanent: carries .problems
        + UnknownPreset, OversizedMessage, NoTenant
      + CallbackFailed             by the backend's answer
      + WorkerLost                 internal: its runs never ended
      + ResultTooLarge             permanent: more than MAX_RESULT_BYTES
      + InvalidResult              internal: numbers that are none
      + CorruptRecord              permanent: what the bucket holds is not this job's
      + FencedOff                  the broker may have given the message to somebody else
      + HoldExpired                an outage outlasted HOLD_TIMEOUT
    consumer.broker.BrokerError   transient or configuration
    consumer.pipeline.InvalidPipeline, StepFailed
    pipeline_steps.errors.StepError
"""

from __future__ import annotations

from typing import ClassVar

from consumer.pipeline.problems import Problem
from contracts.failure import FailureClass


class WorkerError(Exception):
    """An error of the worker's own, with a stable name."""

    code: ClassVar[str] = "worker_error"
    failure_class: FailureClass = FailureClass.INTERNAL


class MalformedMessage(WorkerError):
    """A message that cannot be understood; `problems` lists every reason."""

    code = "malformed_message"
    failure_class = FailureClass.PERMANENT

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


# What follows depends on an operator's files and settings too, so it may be a slip of theirs (`brake.py`).


class UnknownPreset(MalformedMessage):
    """A message that names a pipeline of which PRESETS_FILE knows nothing."""

    code = "unknown_preset"


class OversizedMessage(MalformedMessage):
    """A message of more than MAX_MESSAGE_BYTES."""

    code = "message_too_large"


class NoTenant(MalformedMessage):
    """What a route takes for the tenant in an object's name can be none."""

    code = "no_tenant"


class CallbackFailed(WorkerError):
    """The backend did not accept the callback."""

    code = "callback_failed"

    def __init__(
        self,
        message: str,
        failure_class: FailureClass,
        *,
        outage: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.failure_class = failure_class
        self.outage = outage
        """Whether the host as a whole seems to be away, rather than to mind this message."""
        self.retry_after = retry_after


class FencedOff(WorkerError):
    """The lease cannot be trusted for the next step: another worker may have the message."""

    code = "lease_lost"


class WorkerLost(WorkerError):
    """Workers ended while they ran this job, as often as it may be tried."""

    code = "worker_lost"


class ResultTooLarge(WorkerError):
    """A pipeline found more than a result may hold."""

    code = "result_too_large"
    failure_class = FailureClass.PERMANENT


class InvalidResult(WorkerError):
    """A pipeline found what no result can say, such as a box whose edge is no number."""

    code = "invalid_result"


class CorruptRecord(WorkerError):
    """What the ledger keeps of a job is not a result of that job."""

    code = "corrupt_record"
    failure_class = FailureClass.PERMANENT


class HoldExpired(WorkerError):
    """An outage lasted longer than HOLD_TIMEOUT; the work is handed back, no attempt is used."""

    code = "hold_expired"
    is_outage: ClassVar[bool] = True
