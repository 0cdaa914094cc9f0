"""What a step raises.

Each error knows its failure class, which decides what happens to the message (`contracts/failure.py`)::

    StepError                      permanent
      + InvalidInput                 what the pipeline gave the step cannot be used
      + UnreadableImage              the file is not a picture we read, is truncated, or lies about itself
      + ObjectMissing                an object the pipeline names does not exist
      + NotAllowed                   a path or bucket outside the tenant's own
      + ModelMismatch                the model exists, but cannot do what the step asks of it
      + ModelUnavailable           configuration: the model is named in no manifest, or did not load
      + StoreMisconfigured         configuration: our credentials or bucket are wrong
      + StoreUnavailable           transient: the object store had a bad moment
      + DeviceOverloaded           transient: out of memory even for one item
      + DeviceFailed               transient: the device broke while it had the photo, and the worker ends
      + NotANumber                 internal: a model answered what is no number
      + DeadlineExceeded           internal: the step or the pipeline ran out of time
      + Superseded                 superseded: the photo was replaced before it was read
"""

from __future__ import annotations

from typing import ClassVar

from contracts.failure import FailureClass


class StepError(Exception):
    """A step cannot do its work, for a reason it can name."""

    code: ClassVar[str] = "step_failed"
    failure_class: ClassVar[FailureClass] = FailureClass.PERMANENT
    is_outage: ClassVar[bool] = False
    """Whether it is everybody's trouble rather than this photo's: never skipped, never a partial result."""


class InvalidInput(StepError):
    """What the pipeline gave the step cannot be used."""

    code = "invalid_input"


class UnreadableImage(StepError):
    """The file is not a picture we read, is truncated, or lies about itself."""

    code = "unreadable_image"


class ObjectMissing(StepError):
    """An object the pipeline names does not exist."""

    code = "object_missing"


class NotAllowed(StepError):
    """A path or bucket outside the tenant's own."""

    code = "not_allowed"


class ModelMismatch(StepError):
    """The model exists, but cannot do what the step asks of it."""

    code = "model_mismatch"


class ModelUnavailable(StepError):
    """The model is named in no manifest, or did not load."""

    code = "model_unavailable"
    failure_class = FailureClass.CONFIGURATION


class StoreMisconfigured(StepError):
    """Our credentials, or the bucket, are wrong."""

    code = "store_misconfigured"
    failure_class = FailureClass.CONFIGURATION


class StoreUnavailable(StepError):
    """The object store had a bad moment."""

    code = "store_unavailable"
    failure_class = FailureClass.TRANSIENT
    is_outage = True


class DeviceOverloaded(StepError):
    """The device has not enough memory even for one item."""

    code = "device_overloaded"
    failure_class = FailureClass.TRANSIENT


class DeviceFailed(StepError):
    """The device broke while it computed for this photo, perhaps because of it."""

    code = "device_failed"
    failure_class = FailureClass.TRANSIENT
    is_outage = True


class NotANumber(StepError):
    """A model answered what is no number, or an infinite one."""

    code = "not_a_number"
    failure_class = FailureClass.INTERNAL


class DeadlineExceeded(StepError):
    """The step, or the whole pipeline, ran out of time."""

    code = "pipeline_timeout"
    failure_class = FailureClass.INTERNAL


class Superseded(StepError):
    """The photo was replaced or deleted before the generation we were told of was read."""

    code = "superseded"
    failure_class = FailureClass.SUPERSEDED
