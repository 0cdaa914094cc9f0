"""The callback bodies hold to the backend's Java records: names, nulls, and the columns they end up in."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

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
from tests.contracts.samples import IMAGE, SESSION

NOT_NULL, NULLABLE = False, True
IDS = {"sessionId": str(SESSION), "imageId": str(IMAGE)}

RECORDS: list[tuple[type[BaseModel], dict[str, Any], dict[str, bool]]] = [
    (
        ResultsCallback,
        IDS,
        {
            "sessionId": NOT_NULL,
            "imageId": NOT_NULL,
            "detections": NULLABLE,
            "classifications": NULLABLE,
            "estimations": NULLABLE,
            "metadata": NULLABLE,
        },
    ),
    (
        CallbackDetection,
        {"label": "plant", "confidence": 0.5},
        {"label": NOT_NULL, "confidence": NOT_NULL, "boundingBox": NULLABLE},
    ),
    (
        BoundingBox,
        {"x1": 0, "y1": 0, "x2": 1, "y2": 1},
        {"x1": NOT_NULL, "y1": NOT_NULL, "x2": NOT_NULL, "y2": NOT_NULL},
    ),
    (
        CallbackClassification,
        {"label": "ficus", "confidence": 0.5},
        {"label": NOT_NULL, "confidence": NOT_NULL, "detectionId": NULLABLE},
    ),
    (
        CallbackEstimation,
        {"estimationType": "COUNT", "value": 3},
        {"estimationType": NOT_NULL, "value": NOT_NULL, "unit": NULLABLE, "confidence": NULLABLE},
    ),
    (
        CallbackMetadata,
        {},
        {
            "pipeline": NULLABLE,
            "processingTimeMs": NULLABLE,
            "modelVersion": NULLABLE,
            "workerVersion": NULLABLE,
        },
    ),
    (
        ErrorCallback,
        {**IDS, "errorMessage": "no"},
        {"sessionId": NOT_NULL, "imageId": NOT_NULL, "errorMessage": NOT_NULL, "errorType": NOT_NULL},
    ),
    (
        LegacyCallback,
        {**IDS, "success": True, "pipeline": "DETECTION", "durationMs": 1},
        {
            "sessionId": NOT_NULL,
            "imageId": NOT_NULL,
            "success": NOT_NULL,
            "pipeline": NOT_NULL,
            "durationMs": NOT_NULL,
            "detections": NOT_NULL,
            "error": NOT_NULL,  # the old receiver fails on a null here
        },
    ),
    (
        LegacyDetection,
        {"className": "plant", "confidence": 0.5, "x1": 0, "y1": 0, "x2": 1, "y2": 1},
        {
            "className": NOT_NULL,
            "confidence": NOT_NULL,
            "x1": NOT_NULL,
            "y1": NOT_NULL,
            "x2": NOT_NULL,
            "y2": NOT_NULL,
        },
    ),
]
FIELDS = [
    pytest.param(record, least, name, nullable, id=f"{record.__name__}.{name}")
    for record, least, fields in RECORDS
    for name, nullable in fields.items()
]


@pytest.mark.parametrize(
    ("record", "least", "fields"), RECORDS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_body_has_the_records_names_and_no_others(
    record: type[BaseModel], least: dict[str, Any], fields: dict[str, bool]
) -> None:
    assert list(record.model_validate(least).model_dump(by_alias=True)) == list(fields)


@pytest.mark.parametrize(("record", "least", "name", "nullable"), FIELDS)
def test_a_field_is_null_only_where_the_record_allows_it(
    record: type[BaseModel], least: dict[str, Any], name: str, nullable: bool
) -> None:
    with_null = {**least, name: None}

    if nullable:
        assert record.model_validate(with_null).model_dump(by_alias=True)[name] is None
    else:
        with pytest.raises(ValidationError):
            record.model_validate(with_null)


def test_an_error_is_a_processing_error_unless_said_otherwise() -> None:
    assert (
        ErrorCallback(session_id=SESSION, image_id=IMAGE, error_message="no").error_type == "ProcessingError"
    )


@pytest.mark.parametrize(("given", "kept"), [(0.94884, 0.9488), (0.00004, 0.0), (1, 1.0), (0.99996, 1.0)])
def test_a_confidence_fits_a_column_of_four_decimals(given: float, kept: float) -> None:
    assert CallbackDetection(label="plant", confidence=given).confidence == kept


@pytest.mark.parametrize("given", [-0.0001, 1.0001, float("nan"), float("inf")])
def test_a_confidence_outside_0_to_1_is_no_confidence(given: float) -> None:
    with pytest.raises(ValidationError):
        CallbackDetection(label="plant", confidence=given)


@pytest.mark.parametrize(
    ("given", "kept"), [(12.345678, 12.3457), (-3, -3.0), (99_999_999.9999, 99_999_999.9999)]
)
def test_a_value_fits_a_column_of_twelve_digits_four_of_them_decimals(given: float, kept: float) -> None:
    assert CallbackEstimation(estimation_type="COUNT", value=given).value == kept


@pytest.mark.parametrize("given", [1e8, -1e8, float("nan"), float("inf")])
def test_a_value_too_large_for_its_column_is_refused(given: float) -> None:
    with pytest.raises(ValidationError):
        CallbackEstimation(estimation_type="COUNT", value=given)


@pytest.mark.parametrize(
    ("record", "least", "name", "limit"),
    [
        (CallbackDetection, {"confidence": 0.5}, "label", 255),
        (CallbackClassification, {"confidence": 0.5}, "label", 255),
        (LegacyDetection, {"confidence": 0.5, "x1": 0, "y1": 0, "x2": 1, "y2": 1}, "className", 255),
        (CallbackEstimation, {"value": 1}, "estimationType", 100),
        (CallbackEstimation, {"value": 1, "estimationType": "COUNT"}, "unit", 50),
    ],
)
def test_a_text_is_as_long_as_its_column_at_most(
    record: type[BaseModel], least: dict[str, Any], name: str, limit: int
) -> None:
    fits = record.model_validate({**least, name: "ñ" * limit})

    assert fits.model_dump(by_alias=True)[name] == "ñ" * limit
    with pytest.raises(ValidationError):
        record.model_validate({**least, name: "ñ" * (limit + 1)})
