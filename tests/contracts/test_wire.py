"""What a JSON Schema says of a message is what the worker's own reader says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from consumer.broker import Delivery
from consumer.dead_letters.envelope import read_envelope
from consumer.decode import Decoder
from consumer.errors import MalformedMessage
from consumer.pipeline.definition import read_definition
from consumer.presets import load_presets
from consumer.routes import Routes
from contracts.schemas import CONTRACTS
from tests.contracts.samples import SAMPLES
from tests.contracts.test_golden import golden
from tests.contracts.test_schema_files import SCHEMAS

DECODER = Decoder(load_presets(), Routes(), 10_000_000)


def delivery(data: bytes, attributes: Mapping[str, str]) -> Delivery:
    return Delivery("ack", "1", data, attributes, datetime(2026, 1, 1, tzinfo=UTC), None)


def decodes(data: bytes, attributes: Mapping[str, str]) -> bool:
    try:
        DECODER.decode(delivery(data, attributes))
    except MalformedMessage:
        return False
    return True


def is_read(contract: str, content: Any) -> bool:
    try:
        CONTRACTS[contract].model_validate_json(orjson.dumps(content))
    except ValidationError:
        return False
    return True


READERS: Mapping[str, Callable[[Any], bool]] = {
    "processing_request": lambda content: decodes(orjson.dumps(content), {}),
    "named_pipeline_request": lambda content: decodes(orjson.dumps(content), {}),
    "pipeline_definition": lambda content: read_definition(content)[0] is not None,
    "storage_notification": lambda content: decodes(b"", content),
    "dead_letter_attributes": lambda content: read_envelope(delivery(b"", content)).envelope == "worker",
}
"""How the worker reads what others write; everything else is read as its contract."""


def verdicts(contract: str, content: Any) -> tuple[bool, bool]:
    """Return whether the committed schema and the worker take the message."""
    schema = json.loads((SCHEMAS / f"{contract}.json").read_text())
    reader = READERS.get(contract, lambda content: is_read(contract, content))
    return Draft202012Validator(schema).is_valid(content), reader(content)


def contract_of(sample: str) -> str:
    return next(name for name, model in CONTRACTS.items() if type(SAMPLES[sample]) is model)


STEP = {"type": "step", "name": "count"}


def definition(*steps: Any, **keys: Any) -> dict[str, Any]:
    return {"steps": list(steps), **keys}


def without(sample: str, key: str) -> dict[str, Any]:
    return {name: value for name, value in golden(sample).items() if name != key}


GOOD_DEFINITIONS = [
    definition(),
    definition(STEP, type="chain"),
    definition(
        {**STEP, "kwargs": {"a": None}, "id": None, "timeout_s": 0.5, "retries": 10, "on_error": "skip"}
    ),
    definition({"type": "chord", "group": {"steps": [STEP]}, "callback": {"name": "count"}}),
    definition({"type": "chord", "group": {"type": "group", "steps": []}, "callback": None}),
    definition({"type": "map", "over": "crops", "body": STEP, "min_success": 1, "max_concurrency": 256}),
    definition({"type": "group", "steps": [{"type": "chain", "steps": []}]}),
]
BAD_DEFINITIONS = [
    None,
    [],
    {},
    definition({"name": "count"}),
    definition({"type": "chain", "steps": [{"steps": []}]}),
    definition({"type": "map", "over": "crops", "body": {"name": "count"}}),
    definition({"type": "stap", "name": "count"}),
    definition("count"),
    definition(STEP, type="group"),
    definition(STEP, kind=1),
    definition({**STEP, "name": ""}),
    definition({**STEP, "name": "x" * 65}),
    definition({**STEP, "kwargs": None}),
    definition({**STEP, "retries": 11}),
    definition({**STEP, "retries": 1.5}),
    definition({**STEP, "timeout_s": 0}),
    definition({**STEP, "on_error": "ignore"}),
    definition({"type": "chord"}),
    definition({"type": "chord", "group": {"type": "chain", "steps": []}}),
    definition({"type": "chord", "group": {"steps": []}, "callback": {"type": "chain", "steps": []}}),
    definition({"type": "map", "over": "photos", "body": STEP}),
    definition({"type": "map", "over": "crops", "body": STEP, "min_success": 1.1}),
]
ENVELOPES = ("processing_request", "named_pipeline_request")
CASES = [
    *[("pipeline_definition", content, True) for content in GOOD_DEFINITIONS],
    *[("pipeline_definition", content, False) for content in BAD_DEFINITIONS],
    *[
        ("processing_request", {**golden("processing_request"), "pipeline_definition": content}, is_good)
        for contents, is_good in ((GOOD_DEFINITIONS, True), (BAD_DEFINITIONS, False))
        for content in contents
    ],
    *[
        (sample, {**golden(sample), **changes}, is_good)
        for sample in ENVELOPES
        for changes, is_good in [
            ({"depot": "north"}, True),
            ({"callback_url": None}, True),
            ({"callback_url": 5}, False),
            ({"callback_url": "x" * 2049}, False),
            ({"tenant_id": "../u"}, False),
            ({"tenant_id": "x" * 65}, False),
            ({"tenant_id": "models"}, False),
            ({"tenant_id": "Dead-Letters"}, False),
            ({"tenant_id": "models2"}, True),
            ({"session_id": "7"}, False),
            ({"image_id": None}, False),
            ({"image_url": "gs://abc/ñ#1?x=%41 y.jpg"}, True),
            ({"image_url": "gs://Photos/a.jpg"}, False),
            ({"image_url": "gs://b/a.jpg"}, False),
            ({"image_url": "gs://bucket/"}, False),
            ({"image_url": "https://bucket/a.jpg"}, False),
            ({"image_url": "gs://bucket/" + "x" * 2048}, False),
        ]
    ],
    *[
        ("processing_request", {**golden("processing_request"), "settings": settings}, is_good)
        for settings, is_good in [(None, True), ({}, True), ({"a": None}, True), ([], False), ("x", False)]
    ],
    *[
        ("named_pipeline_request", {**golden("named_pipeline_request"), "options": options}, is_good)
        for options, is_good in [(None, True), ({}, True), ([], False)]
    ],
    *[
        (sample, without(sample, key), key in optional)
        for sample, optional in [
            ("processing_request", {"settings", "callback_url"}),
            ("named_pipeline_request", {"options", "callback_url"}),
            ("storage_notification", {"payloadFormat"}),
            (
                "dead_letter_attributes",
                {
                    f"mlworker-{name}"
                    for name in ("step-path", "result-id", "trace-id", "replay-count", "claim-check")
                },
            ),
        ]
        for key in golden(sample)
    ],
    *[
        ("storage_notification", {**golden("storage_notification"), **changes}, is_good)
        for changes, is_good in [
            ({"eventTime": "2025-04-01T06:30:00Z"}, True),
            ({"objectGeneration": "0"}, False),
            ({"objectGeneration": "soon"}, False),
            ({"objectGeneration": "-1"}, False),
            ({"bucketId": "b"}, False),
            ({"objectId": ""}, False),
            ({"objectId": "x" * 1025}, False),
        ]
    ],
    *[
        ("dead_letter_attributes", {**golden("dead_letter_attributes"), **changes}, is_good)
        for changes, is_good in [
            ({"traceparent": "the original's own"}, True),
            ({"mlworker-attempts": "0"}, True),
            ({"mlworker-attempts": "often"}, False),
            ({"mlworker-attempts": "-1"}, False),
        ]
    ],
]


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_golden_file_is_what_its_schema_says_and_what_the_worker_reads(sample: str) -> None:
    assert verdicts(contract_of(sample), golden(sample)) == (True, True)


@pytest.mark.parametrize(("contract", "content", "is_good"), CASES)
def test_schema_and_worker_take_and_refuse_the_same(contract: str, content: Any, is_good: bool) -> None:
    assert verdicts(contract, content) == (is_good, is_good)


@pytest.mark.parametrize(
    ("contract", "content"),
    [
        ("pipeline_definition", definition({**STEP, "retries": "2"})),
        ("pipeline_definition", definition({**STEP, "timeout_s": "2.5"})),
        (
            "processing_request",
            {
                **golden("processing_request"),
                "session_id": golden("processing_request")["session_id"].replace("-", ""),
            },
        ),
        ("storage_notification", {**golden("storage_notification"), "objectGeneration": str(2**63 - 1)}),
    ],
)
def test_of_what_no_sender_should_send_the_worker_takes_a_little_more(contract: str, content: Any) -> None:
    """Numbers in text, ids without dashes: a sender that keeps to the schema is on the safe side."""
    assert verdicts(contract, content) == (False, True)


@pytest.mark.parametrize("contract", ["storage_notification", "dead_letter_attributes"])
def test_attributes_are_text_whatever_they_mean(contract: str) -> None:
    schema = json.loads((SCHEMAS / f"{contract}.json").read_text())

    assert {values["type"] for values in schema["properties"].values()} == {"string"}
    assert all(isinstance(value, str) for value in golden(contract).values())
