"""Results as they are published: whole, or by reference when they are too large for a message."""

from __future__ import annotations

import asyncio
import json

import pytest

from consumer.outbound.results import OVERHEAD, ResultsPublisher
from contracts.result import ClaimCheck, ProcessingResult
from tests.contracts.samples import FAILED, IMAGE, RESULT, RESULT_ID, SESSION
from tests.outbound.publisher import Published


def publish(result: ProcessingResult, url: str | None = None) -> tuple[bytes, dict[str, str]]:
    published = Published()
    asyncio.run(ResultsPublisher(published, "results", 9_000_000).publish(result, url))
    [(topic, data, attributes)] = published.messages
    assert topic == "results"
    return data, attributes


@pytest.mark.parametrize("result", [RESULT, FAILED])
def test_a_result_is_published_whole_with_what_subscribers_filter_by(result: ProcessingResult) -> None:
    data, attributes = publish(result)

    assert ProcessingResult.model_validate_json(data) == result
    assert attributes == {
        "tenant_id": "acme",
        "session_id": str(SESSION),
        "image_id": str(IMAGE),
        "status": result.status,
        "result_id": RESULT_ID,
    }


def test_a_large_one_is_published_by_reference_under_the_same_attributes() -> None:
    data, attributes = publish(RESULT, "gs://nursery-photos/acme/results/r.json")

    check = ClaimCheck.model_validate_json(data)
    assert check.result_url == "gs://nursery-photos/acme/results/r.json"
    assert (check.result_id, check.tenant_id, check.status) == (RESULT_ID, "acme", "partial")
    assert check.size_bytes == len(RESULT.model_dump_json().encode())
    assert attributes == publish(RESULT)[1]


def test_its_size_is_that_in_bytes() -> None:
    def labelled(label: str) -> ProcessingResult:
        [segment, *_] = RESULT.segments
        many = (segment.model_copy(update={"label": label}),) * 1000
        return RESULT.model_copy(update={"segments": many})

    plain, accented = labelled("n" * 200), labelled("ñ" * 200)
    limit = len(plain.model_dump_json().encode()) + OVERHEAD
    publisher = ResultsPublisher(Published(), "results", limit)

    assert not publisher.needs_claim_check(plain)
    assert publisher.needs_claim_check(accented)


def test_a_result_at_the_limit_still_fits_into_a_message() -> None:
    size = len(RESULT.model_dump_json().encode()) + OVERHEAD

    assert not ResultsPublisher(Published(), "results", size).needs_claim_check(RESULT)
    assert ResultsPublisher(Published(), "results", size - 1).needs_claim_check(RESULT)


def test_readers_tell_a_reference_from_a_result_by_its_fields() -> None:
    whole, reference = json.loads(publish(RESULT)[0]), json.loads(publish(RESULT, "gs://b/r")[0])

    assert "result_url" in reference
    assert "result_url" not in whole
    assert whole["schema_version"] == reference["schema_version"] == "2"
