"""One message of every shape, built in Python; `golden/` holds what each looks like on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

from pydantic import BaseModel

from contracts.builders import chain, chord, group, map_, pipeline, step
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
    SessionStatus,
)
from contracts.dead_letter import DeadLetterAttributes, StoredMessage
from contracts.geometry import Box, RunLengthMask
from contracts.notification import StorageNotification
from contracts.request import NamedPipelineRequest, ProcessingRequest
from contracts.result import (
    ClaimCheck,
    Classification,
    Detection,
    Estimation,
    Failure,
    ImageInfo,
    ModelUsed,
    ProcessingResult,
    Segment,
    Skipped,
    StepReport,
    StoredArtifact,
)

SESSION = UUID("0d9f6a52-5a0e-4b58-9f6e-0f6a0d9f6a52")
IMAGE = UUID("7c1e2f34-9b1d-4c3a-8a57-7c1e2f347c1e")
RESULT_ID = "3f" * 32
URL = f"gs://nursery-photos/acme/originals/{IMAGE}.jpg"
STARTED = datetime(2025, 4, 1, 6, 30, 0, tzinfo=UTC)
FINISHED = datetime(2025, 4, 1, 6, 30, 4, 250_000, tzinfo=UTC)

EVERY_ELEMENT = pipeline(
    step("segmentation", mode="prompted", classes=["cajon"]),
    chord(
        group(
            step("detection", retries=2, on_error="skip", segment_type="cajon"),
            chain(step("sahi_detection", timeout_s=90.0)),
            on_error="skip",
            min_success=0.5,
        ),
        step("aggregate_detections"),
    ),
    map_("segments", step("classification"), max_concurrency=4, on_error="skip", min_success=0.25),
    group(step("size_calculator"), step("species_distributor")),
)

RESULT = ProcessingResult(
    result_id=RESULT_ID,
    tenant_id="acme",
    session_id=SESSION,
    image_id=IMAGE,
    image_url=URL,
    image_generation=1743489000123456,
    status="partial",
    image=ImageInfo(width=4000, height=3000, orientation_applied=True),
    segments=(
        Segment(
            index=0,
            label="cajon",
            confidence=0.9821,
            box=Box(x1=10.5, y1=20, x2=1010.5, y2=720),
            area_px=650_000,
            mask=RunLengthMask(size=(3000, 4000), counts="0`m0"),
        ),
        Segment(
            index=1,
            label="segmento",
            confidence=0.75,
            box=Box(x1=0, y1=800, x2=4000, y2=3000),
            area_px=8_800_000,
        ),
    ),
    detections=(
        Detection(
            index=0, label="plant", confidence=0.9488, box=Box(x1=100, y1=50.25, x2=160, y2=110), segment=0
        ),
        Detection(index=1, label="planta ñandú", confidence=0.5, box=Box(x1=3900, y1=0, x2=4000, y2=90)),
    ),
    classifications=(
        Classification(detection=0, label="ficus", confidence=1, size="XL"),
        Classification(segment=1, label="wet", confidence=0.61),
    ),
    estimations=(
        Estimation(type="total_count", value=2, unit="units"),
        Estimation(type="coverage_percent", value=0.0625, unit="percent", confidence=0.9),
    ),
    artifacts=(
        StoredArtifact(
            kind="processed",
            url=f"gs://nursery-photos/acme/processed/{IMAGE}.jpg",
            width=4000,
            height=3000,
        ),
    ),
    skipped=(
        Skipped(path="steps.2.map[1].body", item="1", error="model_mismatch: it classifies no segments"),
        Skipped(path="steps.1.group.steps.0", error="step_failed: no"),
    ),
    steps=(
        StepReport(path="steps.0", id="beds", name="segmentation", ms=812.125, status="succeeded"),
        StepReport(path="steps.1.group.steps.0", name="detection", ms=3, status="skipped"),
        StepReport(path="steps.3.steps.1", name="species_distributor", ms=0, status="not_run"),
    ),
    models=(ModelUsed(name="plants", version="1", sha256="ab" * 32, precision="fast"),),
    warnings=("settings.colour: no step reads it; known: species",),
    worker_version="0.1.0",
    started_at=STARTED,
    finished_at=FINISHED,
)

FAILED = ProcessingResult(
    result_id=RESULT_ID,
    tenant_id="acme",
    session_id=SESSION,
    image_id=IMAGE,
    image_url=URL,
    status="failed",
    error=Failure(
        code="unreadable_image", failure_class="permanent", message="not a picture", step_path="steps.0"
    ),
    worker_version="0.1.0",
    started_at=STARTED,
    finished_at=STARTED,
)

SAMPLES: Mapping[str, BaseModel] = {
    "processing_request": ProcessingRequest(
        tenant_id="acme",
        session_id=SESSION,
        image_id=IMAGE,
        image_url=URL,
        pipeline_definition=EVERY_ELEMENT,
        settings={"species": ["ficus", "aloe"], "sahi_slice_height": 640, "output_dir": None},
        callback_url="https://backend.example.com/api/v1/processing-callback/results",
    ),
    "named_pipeline_request": NamedPipelineRequest(
        tenant_id="acme",
        session_id=SESSION,
        image_id=IMAGE,
        image_url=URL,
        pipeline="FULL_PIPELINE",
        options={"confidence_override": 0.6},
        callback_url="https://backend.example.com/api/v1/ml/callback",
    ),
    "pipeline_definition": EVERY_ELEMENT,
    "storage_notification": StorageNotification(
        event_type="OBJECT_FINALIZE",
        bucket="nursery-photos",
        name="acme/originals/bed 7.jpg",
        generation=1743489000123456,
        payload_format="JSON_API_V1",
    ),
    "processing_result": RESULT,
    "processing_result_failed": FAILED,
    "result_claim_check": ClaimCheck(
        result_id=RESULT_ID,
        tenant_id="acme",
        session_id=SESSION,
        image_id=IMAGE,
        status="succeeded",
        result_url=f"gs://nursery-photos/acme/results/{SESSION}/{IMAGE}/{RESULT_ID}.json",
        size_bytes=12_345_678,
    ),
    "callback_results": ResultsCallback(
        session_id=SESSION,
        image_id=IMAGE,
        detections=(
            CallbackDetection(
                label="plant", confidence=0.94884, bounding_box=BoundingBox(x1=100, y1=50.25, x2=160, y2=110)
            ),
            CallbackDetection(label="plant", confidence=1),
        ),
        classifications=(
            CallbackClassification(label="ficus", confidence=1),
            CallbackClassification(label="aloe", confidence=0.5, detection_id=IMAGE),
        ),
        estimations=(
            CallbackEstimation(estimation_type="COUNT", value=2, unit="units"),
            CallbackEstimation(estimation_type="coverage_percent", value=12.34567, confidence=0.9),
        ),
        metadata=CallbackMetadata(
            pipeline="FULL_PIPELINE",
            processing_time_ms=4250,
            model_version="plants@1",
            worker_version="0.1.0",
        ),
    ),
    "callback_results_of_nothing": ResultsCallback(
        session_id=SESSION, image_id=IMAGE, detections=None, classifications=None, estimations=None
    ),
    "callback_error": ErrorCallback(session_id=SESSION, image_id=IMAGE, error_message="not a picture"),
    "callback_legacy": LegacyCallback(
        session_id=SESSION,
        image_id=IMAGE,
        success=True,
        pipeline="DETECTION",
        duration_ms=4250,
        detections=(LegacyDetection(class_name="plant", confidence=0.9488, x1=1, y1=2, x2=3.5, y2=4),),
    ),
    "callback_legacy_failed": LegacyCallback(
        session_id=SESSION,
        image_id=IMAGE,
        success=False,
        pipeline="custom",
        duration_ms=0,
        error="not a picture",
    ),
    "callback_answer": SessionStatus(
        session_id=SESSION, status="PROCESSING", total_images=3, processed_images=1, progress=33.33
    ),
    "dead_letter_attributes": DeadLetterAttributes(
        error_code="unreadable_image",
        error_class="permanent",
        error_message="not a picture",
        step_path="steps.0",
        attempts=1,
        source_subscription="projects/p/subscriptions/requests",
        source_message_id="8675309",
        source_publish_time=STARTED,
        result_id=RESULT_ID,
        worker_version="0.1.0",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        failed_at=FINISHED,
        replay_count=2,
        claim_check="gs://nursery-photos/dead-letters/8675309",
    ),
    "dead_letter_stored_message": StoredMessage(
        data_base64="eyJ0ZW5hbnRfaWQiOiJhY21lIn0=",
        attributes={"traceparent": "00-4bf9-00f0-01", "schéma": "2"},
    ),
}
