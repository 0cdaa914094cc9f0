"""Dead letters: the whole original message and its reason, however large both are."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.broker import Delivery
from consumer.outbound.dead_letter import (
    MAX_ATTRIBUTES,
    MAX_BYTES,
    MAX_VALUE_BYTES,
    DeadLetters,
    as_attributes,
    cut,
)
from consumer.storage.filesystem import FilesystemStore
from contracts.dead_letter import DeadLetterAttributes, StoredMessage
from tests.contracts.samples import SAMPLES
from tests.outbound.publisher import Published

REASON = SAMPLES["dead_letter_attributes"]
assert isinstance(REASON, DeadLetterAttributes)
REASON = REASON.model_copy(update={"claim_check": None})


def reason(**changes: Any) -> DeadLetterAttributes:
    return REASON.model_copy(update=changes)


def delivery(data: bytes = b"{broken", attributes: Mapping[str, str] | None = None) -> Delivery:
    return Delivery("ack", "8675309", data, attributes or {}, datetime(2025, 4, 1, tzinfo=UTC), 3)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.published = Published()
        self.store = FilesystemStore(folder)
        self.letters = DeadLetters(self.published, "dead-letters", self.store, "nursery-photos")

    def publish(self, message: Delivery, why: DeadLetterAttributes = REASON) -> tuple[bytes, dict[str, str]]:
        """Publish, and return the one message that was sent."""
        assert asyncio.run(self.letters.publish(message, why)) == "id-1"
        [(topic, data, attributes)] = self.published.messages
        assert topic == "dead-letters"
        return data, attributes

    def stored(self, url: str) -> StoredMessage:
        assert url.startswith("gs://nursery-photos/dead-letters/")
        name = url.removeprefix("gs://nursery-photos/")
        found = asyncio.run(self.store.read("nursery-photos", name))
        return StoredMessage.model_validate_json(found.data)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    asyncio.run(bench.store.close())


class TestDeadLetters:
    def test_the_original_message_is_untouched_and_its_reason_beside_it(self, bench: Bench) -> None:
        original = {"traceparent": "00-ab-cd-01", "schema_version": "2"}

        data, attributes = bench.publish(delivery(b"\x00\xff not even text", original))

        assert data == b"\x00\xff not even text"
        assert attributes == {**original, **as_attributes(REASON)}
        assert attributes["mlworker-error-code"] == "unreadable_image"

    def test_what_is_not_known_has_no_attribute(self, bench: Bench) -> None:
        _, attributes = bench.publish(delivery(), reason(step_path=None, result_id=None, trace_id=None))

        absent = {f"mlworker-{name}" for name in ("step-path", "result-id", "trace-id", "claim-check")}
        assert not absent & set(attributes)

    def test_what_an_earlier_death_left_behind_is_not_read_as_this_ones(self, bench: Bench) -> None:
        earlier = as_attributes(reason(error_code="old", step_path="steps.9", claim_check="gs://old/1"))
        wishes = {"mlworker-force": "1", "colour": "red"}

        _, attributes = bench.publish(delivery(b"{}", {**earlier, **wishes}), reason(step_path=None))

        assert attributes["mlworker-error-code"] == "unreadable_image"
        assert "mlworker-step-path" not in attributes
        assert "mlworker-claim-check" not in attributes
        assert {name: attributes[name] for name in wishes} == wishes

    def test_a_long_reason_is_cut_to_what_an_attribute_holds(self, bench: Bench) -> None:
        _, attributes = bench.publish(delivery(), reason(error_message="ñ" * 5000, step_path="s" * 5000))

        assert attributes["mlworker-error-message"] == "ñ" * 512
        assert attributes["mlworker-step-path"] == "s" * 1024

    @pytest.mark.parametrize(
        "message",
        [
            delivery(b"x" * 9_900_000),
            delivery(b"x" * MAX_BYTES),
            delivery(b"", {f"key-{i}": "v" for i in range(90)}),
            delivery(b"", {f"key-{i}": "v" for i in range(100)}),
        ],
        ids=["9.9 MB", "9 MB", "90 attributes", "100 attributes"],
    )
    def test_what_does_not_fit_is_kept_in_the_bucket_whole_and_named(
        self, bench: Bench, message: Delivery
    ) -> None:
        data, attributes = bench.publish(message)

        url = attributes["mlworker-claim-check"]
        kept = bench.stored(url)
        assert data == b""
        assert attributes == as_attributes(reason(claim_check=url))
        assert url == "gs://nursery-photos/dead-letters/8675309"
        assert base64.b64decode(kept.data_base64) == message.data
        assert kept.attributes == message.attributes

    def test_what_just_fits_travels_whole(self, bench: Bench) -> None:
        own = as_attributes(REASON)
        room = MAX_BYTES - sum(len(name) + len(value) for name, value in own.items())
        attributes = {f"k{i:02}": "" for i in range(MAX_ATTRIBUTES - len(own))}

        data, sent = bench.publish(delivery(b"x" * (room - 3 * len(attributes)), attributes))

        assert len(data) == room - 3 * len(attributes)
        assert len(sent) == MAX_ATTRIBUTES
        assert "mlworker-claim-check" not in sent

    def test_publishing_again_writes_the_same_again(self, bench: Bench) -> None:
        message = delivery(b"x" * 9_900_000)

        async def twice() -> None:
            await bench.letters.publish(message, REASON)
            await bench.letters.publish(message, REASON)

        asyncio.run(twice())
        first, second = bench.published.messages
        assert first == second

    @given(st.text(max_size=3000), st.integers(0, 40))
    def test_a_cut_text_is_the_beginning_of_the_whole_and_fits(self, text: str, limit: int) -> None:
        for most in (limit, MAX_VALUE_BYTES):
            short = cut(text, most)
            assert text.startswith(short)
            assert len(short.encode()) <= most
            following = text[len(short) : len(short) + 1]
            assert not following or len((short + following).encode()) > most

    def test_what_is_no_text_is_cut_all_the_same(self) -> None:
        assert cut("a\ud800b") == "a?b"
