"""The callback's bodies, made from a result."""

from __future__ import annotations

from contracts.callback import (
    BoundingBox,
    CallbackClassification,
    CallbackDetection,
    CallbackEstimation,
    CallbackMetadata,
    ErrorCallback,
    LegacyCallback,
    LegacyDetection,
    ResultsCallback,
)
from contracts.geometry import Box
from contracts.result import ProcessingResult

_LABEL, _TYPE, _UNIT = 255, 100, 50
"""The lengths of the backend's columns."""


def results_body(result: ProcessingResult, pipeline: str | None) -> ResultsCallback:
    """Return the body of `POST .../results`."""
    return ResultsCallback(
        session_id=result.session_id,
        image_id=result.image_id,
        detections=tuple(
            CallbackDetection(
                label=found.label[:_LABEL], confidence=found.confidence, bounding_box=_bounding_box(found.box)
            )
            for found in result.detections
        ),
        classifications=tuple(
            CallbackClassification(label=said.label[:_LABEL], confidence=said.confidence)
            for said in result.classifications
        ),
        estimations=tuple(
            CallbackEstimation(
                estimation_type=estimation.type[:_TYPE],
                value=estimation.value,
                unit=estimation.unit[:_UNIT] if estimation.unit else None,
                confidence=estimation.confidence,
            )
            for estimation in result.estimations
        ),
        metadata=CallbackMetadata(
            pipeline=pipeline,
            processing_time_ms=_milliseconds(result),
            model_version=", ".join(f"{model.name}@{model.version}" for model in result.models) or None,
            worker_version=result.worker_version,
        ),
    )


def error_body(result: ProcessingResult) -> ErrorCallback:
    """Return the body of `POST .../error` for a failed result."""
    message = result.error.message if result.error else "unknown error"
    return ErrorCallback(session_id=result.session_id, image_id=result.image_id, error_message=message)


def legacy_body(result: ProcessingResult, pipeline: str | None) -> LegacyCallback:
    """Return the older body, for success and failure alike."""
    return LegacyCallback(
        session_id=result.session_id,
        image_id=result.image_id,
        success=result.status != "failed",
        pipeline=pipeline or "custom",
        duration_ms=_milliseconds(result),
        detections=tuple(
            LegacyDetection(
                class_name=found.label[:_LABEL], confidence=found.confidence, **found.box.model_dump()
            )
            for found in result.detections
        ),
        error=result.error.message if result.error else "",
    )


def _bounding_box(box: Box) -> BoundingBox:
    return BoundingBox(x1=box.x1, y1=box.y1, x2=box.x2, y2=box.y2)


def _milliseconds(result: ProcessingResult) -> int:
    return round((result.finished_at - result.started_at).total_seconds() * 1000)
