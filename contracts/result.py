"""What the worker publishes to the results topic, and keeps as its record."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import Field

from contracts.base import Contract
from contracts.geometry import Box, RunLengthMask

SCHEMA_VERSION = "2"

Status = Literal["succeeded", "partial", "failed"]


class Failure(Contract):
    """Why a message failed."""

    code: str
    """A stable name, such as `invalid_pipeline` or `unreadable_image`."""
    failure_class: str
    message: str
    step_path: str | None = None


class ImageInfo(Contract):
    """The picture that was read, upright."""

    width: int
    height: int
    orientation_applied: bool
    scaled: bool = False
    """Decoded smaller than it is, for models that allow it in `models.yaml`; sizes and boxes are its own."""


class Segment(Contract):
    """A region of the picture, such as a bed or a tray."""

    index: int
    label: str
    confidence: float
    box: Box
    area_px: float
    mask: RunLengthMask | None = None


class Detection(Contract):
    """One thing found; `segment` is the index of the segment it lies in."""

    index: int
    label: str
    confidence: float
    box: Box
    segment: int | None = None


class Classification(Contract):
    """What something is: it speaks of one detection, one segment, or the whole picture."""

    detection: int | None = None
    segment: int | None = None
    label: str
    confidence: float
    size: str | None = None


class Estimation(Contract):
    """A number about the picture, such as `total_count`."""

    type: str = Field(max_length=100)
    value: float
    unit: str | None = Field(default=None, max_length=50)
    confidence: float | None = None


class StoredArtifact(Contract):
    """A file the pipeline wrote."""

    kind: str
    url: str
    width: int
    height: int


class Skipped(Contract):
    """Something that failed and was allowed to."""

    path: str
    item: str | None = None
    error: str


class StepReport(Contract):
    """How one step went."""

    path: str
    id: str | None = None
    """The author's own name for it."""
    name: str
    ms: float
    status: Literal["succeeded", "skipped", "not_run", "failed"]


class ModelUsed(Contract):
    """A model that took part."""

    name: str
    version: str
    sha256: str
    precision: Literal["exact", "fast"] = "exact"
    """`fast`: its trunk computed in 16 bits, where the device has them."""


class ProcessingResult(Contract):
    """The outcome of one message. Readers de-duplicate by `result_id`."""

    schema_version: str = SCHEMA_VERSION
    result_id: str
    tenant_id: str
    session_id: UUID
    image_id: UUID
    image_url: str
    image_generation: int | None = None
    status: Status
    error: Failure | None = None
    image: ImageInfo | None = None
    segments: tuple[Segment, ...] = ()
    detections: tuple[Detection, ...] = ()
    classifications: tuple[Classification, ...] = ()
    estimations: tuple[Estimation, ...] = ()
    artifacts: tuple[StoredArtifact, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    steps: tuple[StepReport, ...] = ()
    models: tuple[ModelUsed, ...] = ()
    warnings: tuple[str, ...] = ()
    worker_version: str
    started_at: datetime
    finished_at: datetime

    @cached_property
    def as_json(self) -> bytes:
        """The result as it is recorded and published; made once, since masks make it many megabytes."""
        return self.model_dump_json().encode()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields changed, and with a JSON of its own."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("as_json", None)
        return copied


class ClaimCheck(Contract):
    """What the results topic carries when the result is too large for a message."""

    schema_version: str = SCHEMA_VERSION
    result_id: str
    tenant_id: str
    session_id: UUID
    image_id: UUID
    status: Status
    result_url: str
    """`gs://` url of the whole `ProcessingResult`."""
    size_bytes: int
