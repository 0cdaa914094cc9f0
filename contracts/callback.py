"""The bodies the backend takes, exactly as its Java records declare them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field

from contracts.base import BackendContract

# The backend's columns: confidence DECIMAL(5,4), value DECIMAL(12,4).
Confidence = Annotated[float, Field(ge=0, le=1), AfterValidator(lambda value: round(value, 4))]
Value = Annotated[float, Field(gt=-1e8, lt=1e8), AfterValidator(lambda value: round(value, 4))]
Label = Annotated[str, Field(max_length=255)]


class BoundingBox(BackendContract):
    """Full-image pixels of the upright picture."""

    x1: float
    y1: float
    x2: float
    y2: float


class CallbackDetection(BackendContract):
    """One thing found."""

    label: Label
    confidence: Confidence
    bounding_box: BoundingBox | None = None


class CallbackClassification(BackendContract):
    """What something is; the backend makes its detection ids itself, so `detection_id` stays null."""

    label: Label
    confidence: Confidence
    detection_id: UUID | None = None


class CallbackEstimation(BackendContract):
    """A number about the picture; stock is booked from the type `COUNT`."""

    estimation_type: str = Field(max_length=100)
    value: Value
    unit: str | None = Field(default=None, max_length=50)
    confidence: Confidence | None = None


class CallbackMetadata(BackendContract):
    """How the result came about."""

    pipeline: str | None = None
    processing_time_ms: int | None = None
    model_version: str | None = None
    worker_version: str | None = None


class ResultsCallback(BackendContract):
    """`POST .../results`."""

    session_id: UUID
    image_id: UUID
    detections: tuple[CallbackDetection, ...] | None = ()
    classifications: tuple[CallbackClassification, ...] | None = ()
    estimations: tuple[CallbackEstimation, ...] | None = ()
    metadata: CallbackMetadata | None = None


class ErrorCallback(BackendContract):
    """`POST .../error`: it fails the whole session, so it is sent only on giving up."""

    session_id: UUID
    image_id: UUID
    error_message: str
    error_type: str = "ProcessingError"


class LegacyDetection(BackendContract):
    """A detection in the older body."""

    class_name: Label
    confidence: Confidence
    x1: float
    y1: float
    x2: float
    y2: float


class LegacyCallback(BackendContract):
    """The older body, for urls ending in `/ml/callback`; `error` is never null there."""

    session_id: UUID
    image_id: UUID
    success: bool
    pipeline: str
    duration_ms: int
    detections: tuple[LegacyDetection, ...] = ()
    error: str = ""


class SessionStatus(BackendContract):
    """What the backend answers."""

    session_id: UUID
    status: str
    total_images: int
    processed_images: int
    progress: float
