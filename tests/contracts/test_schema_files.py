"""The committed JSON Schemas say what the code says."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest

import contracts
from contracts.schemas import CONTRACTS, json_schemas

SCHEMAS = Path(contracts.__file__).parent / "schemas"


def test_there_is_one_file_for_each_contract() -> None:
    assert {file.stem for file in SCHEMAS.glob("*.json")} == set(CONTRACTS)


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_schema_file_has_not_drifted_from_its_contract(name: str) -> None:
    generated = orjson.dumps(json_schemas()[name], option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    assert (SCHEMAS / f"{name}.json").read_bytes() == generated, (
        "run `mlworker schema --out contracts/schemas` and look at what changed for readers"
    )


def test_the_backend_reads_camel_case_and_the_rest_snake_case() -> None:
    schemas = json_schemas()

    for name in ("callback_results", "callback_error", "callback_legacy", "callback_answer"):
        assert "sessionId" in schemas[name]["properties"]
        assert "_" not in "".join(schemas[name]["properties"])
    assert "session_id" in schemas["processing_request"]["properties"]
    assert "session_id" in schemas["processing_result"]["properties"]


def test_a_schema_tells_what_a_definition_may_hold() -> None:
    schema = json.dumps(json_schemas()["pipeline_definition"])

    for name in ("StepDefinition", "ChainDefinition", "GroupDefinition", "ChordDefinition", "MapDefinition"):
        assert f'"#/$defs/{name}"' in schema


@pytest.mark.parametrize(
    ("name", "required"),
    [
        ("processing_request", ["tenant_id", "session_id", "image_id", "image_url", "pipeline_definition"]),
        ("named_pipeline_request", ["tenant_id", "session_id", "image_id", "image_url", "pipeline"]),
        ("callback_results", ["sessionId", "imageId"]),
        ("callback_error", ["sessionId", "imageId", "errorMessage"]),
    ],
)
def test_a_schema_requires_what_cannot_be_left_out(name: str, required: list[str]) -> None:
    assert json_schemas()[name]["required"] == required
