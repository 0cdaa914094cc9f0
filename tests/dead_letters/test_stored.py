"""Originals that did not fit into their dead letter."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer.dead_letters.envelope import DeadLetter, Original, read_envelope
from consumer.dead_letters.stored import StoredOriginals, Unreadable
from consumer.storage.filesystem import FilesystemStore
from contracts.dead_letter import StoredMessage
from tests.dead_letters.postbox import BUCKET, PostBox, die_by_reference, letter_of
from tests.dead_letters.test_holding import pulled

URL = f"gs://{BUCKET}/dead-letters/big-1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FilesystemStore]:
    (tmp_path / "store" / BUCKET).mkdir(parents=True)
    store = FilesystemStore(tmp_path / "store")
    yield store
    asyncio.run(store.close())


def filled(letter: DeadLetter, store: FilesystemStore, bucket: str | None = BUCKET) -> DeadLetter:
    return asyncio.run(StoredOriginals(lambda: store, bucket).filled(letter))


def put(store: FilesystemStore, name: str, data: bytes) -> None:
    asyncio.run(store.write(BUCKET, name, data))


def claimed(url: str = URL, **changes: Any) -> DeadLetter:
    return read_envelope(letter_of(b"", claim_check=url, **changes))


def test_what_the_worker_put_into_the_bucket_is_fetched(post: PostBox, store: FilesystemStore) -> None:
    data, attributes = b"x" * 9_100_000, {"origin": "test", "mlworker-error-code": "of an earlier death"}
    die_by_reference(post.broker.address, store, data, attributes)
    [given] = pulled(post)
    letter = read_envelope(given)

    assert (letter.claim_check, letter.original, given.data) == (URL, None, b"")
    assert filled(letter, store).original == Original(data, {"origin": "test"})


def test_a_letter_that_holds_its_original_needs_no_bucket() -> None:
    letter = read_envelope(letter_of(b"body"))
    originals = StoredOriginals(lambda: pytest.fail("opened"), None)

    assert asyncio.run(originals.filled(letter)) is letter


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"gs://{BUCKET}/acme/results/secret.json", "leads out of gs://photos/dead-letters/"),
        ("gs://elsewhere/dead-letters/1", "leads out of gs://photos/dead-letters/"),
        ("https://evil.example/dead-letters/1", "expected gs://bucket/path"),
        (f"gs://{BUCKET}/dead-letters/missing", "does not exist"),
    ],
)
def test_a_claim_check_that_leads_elsewhere_is_not_followed(
    store: FilesystemStore, url: str, words: str
) -> None:
    put(
        store,
        "acme/results/secret.json",
        StoredMessage(data_base64="", attributes={}).model_dump_json().encode(),
    )
    letter = filled(claimed(url), store)

    assert letter.original is None
    assert words in letter.unreadable


@pytest.mark.parametrize("content", [b"", b"{}", b'{"data_base64": "?", "attributes": {}}'])
def test_what_is_damaged_in_the_bucket_is_told(store: FilesystemStore, content: bytes) -> None:
    put(store, "dead-letters/big-1", content)
    letter = filled(claimed(), store)

    assert letter.original is None
    assert URL in letter.unreadable


def test_without_a_bucket_it_is_said_how_to_name_it(store: FilesystemStore) -> None:
    assert "BUCKET (or --bucket)" in filled(claimed(), store, bucket=None).unreadable


def test_an_original_is_written_back_only_where_nothing_is(store: FilesystemStore) -> None:
    async def whole() -> None:
        originals = StoredOriginals(lambda: store, BUCKET)
        await originals.write(URL, StoredMessage(data_base64="AQ==", attributes={}))
        await originals.write(URL, StoredMessage(data_base64="Ag==", attributes={}))
        assert (await originals.read(URL)).data_base64 == "AQ=="
        with pytest.raises(Unreadable):
            await originals.write("gs://elsewhere/x", StoredMessage(data_base64="", attributes={}))

    asyncio.run(whole())
