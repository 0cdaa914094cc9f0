"""What every message looks like on the wire, and that it can be read back.

A golden file never changes: whatever was published once must still be read. A new shape gets a new file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from consumer.outbound.dead_letter import as_attributes
from contracts.attributes import AttributesContract
from contracts.dead_letter import DeadLetterAttributes
from contracts.notification import StorageNotification
from contracts.pipeline import PipelineDefinition
from contracts.result import ProcessingResult
from contracts.schemas import CONTRACTS
from tests.contracts.samples import SAMPLES

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def test_every_contract_has_a_golden_file() -> None:
    files = {file.stem for file in GOLDEN.glob("*.json")}

    assert set(CONTRACTS) <= set(SAMPLES)
    assert files == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_message_is_written_as_its_golden_file(name: str) -> None:
    message = SAMPLES[name]
    if isinstance(message, AttributesContract):
        assert message.attributes() == golden(name)
    else:
        assert json.loads(message.model_dump_json(by_alias=True)) == golden(name)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_golden_file_is_read_as_its_message(name: str) -> None:
    read = type(SAMPLES[name]).model_validate_json((GOLDEN / f"{name}.json").read_bytes())

    assert read == SAMPLES[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_changes_a_message_once_it_is_made(name: str) -> None:
    message = SAMPLES[name]
    field = next(iter(type(message).model_fields))

    with pytest.raises(ValidationError, match="frozen"):
        setattr(message, field, None)


@pytest.mark.parametrize(
    "name", [name for name in SAMPLES if name.startswith(("processing_result", "callback", "dead_letter"))]
)
def test_what_we_write_has_no_field_we_do_not_know(name: str) -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        type(SAMPLES[name]).model_validate({**golden(name), "nobody_knows": 1})


def test_a_result_from_before_there_was_a_precision_was_exact() -> None:
    older = golden("processing_result")
    del older["models"][0]["precision"]

    assert ProcessingResult.model_validate(older).models[0].precision == "exact"


def test_a_definition_reads_the_same_with_every_default_left_out() -> None:
    short = {
        "steps": [
            {
                "type": "step",
                "name": "segmentation",
                "kwargs": {"mode": "prompted", "classes": ["cajon"]},
            },
            {
                "type": "chord",
                "group": {
                    "steps": [
                        {
                            "type": "step",
                            "name": "detection",
                            "kwargs": {"segment_type": "cajon"},
                            "retries": 2,
                            "on_error": "skip",
                        },
                        {
                            "type": "chain",
                            "steps": [{"type": "step", "name": "sahi_detection", "timeout_s": 90}],
                        },
                    ],
                    "on_error": "skip",
                    "min_success": 0.5,
                },
                "callback": {"name": "aggregate_detections"},
            },
            {
                "type": "map",
                "over": "segments",
                "body": {"type": "step", "name": "classification"},
                "max_concurrency": 4,
                "on_error": "skip",
                "min_success": 0.25,
            },
            {
                "type": "group",
                "steps": [
                    {"type": "step", "name": "size_calculator"},
                    {"type": "step", "name": "species_distributor"},
                ],
            },
        ]
    }

    assert PipelineDefinition.model_validate(short) == SAMPLES["pipeline_definition"]


def test_a_result_names_every_field_that_readers_depend_on() -> None:
    assert list(golden("processing_result")) == [
        "schema_version",
        "result_id",
        "tenant_id",
        "session_id",
        "image_id",
        "image_url",
        "image_generation",
        "status",
        "error",
        "image",
        "segments",
        "detections",
        "classifications",
        "estimations",
        "artifacts",
        "skipped",
        "steps",
        "models",
        "warnings",
        "worker_version",
        "started_at",
        "finished_at",
    ]


def test_a_failed_result_is_as_complete_as_a_good_one() -> None:
    assert list(golden("processing_result_failed")) == list(golden("processing_result"))
    assert ProcessingResult.model_validate(golden("processing_result_failed")).status == "failed"


def test_a_notification_is_read_from_attributes_which_are_all_text() -> None:
    attributes = {
        "notificationConfig": "projects/_/buckets/nursery-photos/notificationConfigs/3",
        "eventType": "OBJECT_FINALIZE",
        "payloadFormat": "JSON_API_V1",
        "bucketId": "nursery-photos",
        "objectId": "acme/originals/bed 7.jpg",
        "objectGeneration": "1743489000123456",
        "eventTime": "2025-04-01T06:30:00.000000Z",
        "overwroteGeneration": "1743400000000000",
    }

    assert StorageNotification.model_validate(attributes) == SAMPLES["storage_notification"]


def test_a_dead_letter_carries_its_reason_in_prefixed_attributes_of_text() -> None:
    reason = SAMPLES["dead_letter_attributes"]
    assert isinstance(reason, DeadLetterAttributes)

    assert as_attributes(reason) == golden("dead_letter_attributes")
    assert as_attributes(reason) == {
        "mlworker-error-code": "unreadable_image",
        "mlworker-error-class": "permanent",
        "mlworker-error-message": "not a picture",
        "mlworker-step-path": "steps.0",
        "mlworker-attempts": "1",
        "mlworker-source-subscription": "projects/p/subscriptions/requests",
        "mlworker-source-message-id": "8675309",
        "mlworker-source-publish-time": "2025-04-01T06:30:00Z",
        "mlworker-result-id": "3f" * 32,
        "mlworker-worker-version": "0.1.0",
        "mlworker-trace-id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "mlworker-failed-at": "2025-04-01T06:30:04.250000Z",
        "mlworker-replay-count": "2",
        "mlworker-claim-check": "gs://nursery-photos/dead-letters/8675309",
    }


def test_a_changed_copy_of_a_result_says_what_it_was_changed_to() -> None:
    result = SAMPLES["processing_result"]
    assert isinstance(result, ProcessingResult)
    assert ProcessingResult.model_validate_json(result.as_json) == result
    changed = result.model_copy(update={"status": "partial"})
    assert json.loads(changed.as_json)["status"] == "partial"
