"""JSON Schemas of every contract, by file name."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaValue

from contracts.callback import ErrorCallback, LegacyCallback, ResultsCallback, SessionStatus
from contracts.dead_letter import DeadLetterAttributes, StoredMessage
from contracts.notification import StorageNotification
from contracts.pipeline import PipelineDefinition
from contracts.request import NamedPipelineRequest, ProcessingRequest
from contracts.result import ClaimCheck, ProcessingResult

CONTRACTS: Mapping[str, type[BaseModel]] = {
    "processing_request": ProcessingRequest,
    "named_pipeline_request": NamedPipelineRequest,
    "pipeline_definition": PipelineDefinition,
    "storage_notification": StorageNotification,
    "processing_result": ProcessingResult,
    "result_claim_check": ClaimCheck,
    "callback_results": ResultsCallback,
    "callback_error": ErrorCallback,
    "callback_legacy": LegacyCallback,
    "callback_answer": SessionStatus,
    "dead_letter_attributes": DeadLetterAttributes,
    "dead_letter_stored_message": StoredMessage,
}


def json_schemas() -> dict[str, JsonSchemaValue]:
    """Return the schema of each contract, keyed by its file's stem."""
    return {
        name: {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **model.model_json_schema(by_alias=True),
        }
        for name, model in CONTRACTS.items()
    }
