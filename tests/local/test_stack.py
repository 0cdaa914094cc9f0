"""The local stack: the production worker between embedded peers, without loops and without leftovers."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from consumer.local.stack import LocalStack
from contracts.builders import pipeline, step

pytestmark = pytest.mark.anyio

# Writes below the folder whose notifications start it: the worst case for loops.
WRITES_ORIGINALS = pipeline(
    step("upload_image", dest_prefix="originals", name="copy_{image_id}", thumbnail_sizes=[64])
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def photo() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "green").save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[LocalStack]:
    before = threading.active_count()
    async with LocalStack(tmp_path, pipeline=WRITES_ORIGINALS) as stack:
        yield stack
    left = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    assert len(left) <= before


def originals(stack: LocalStack) -> list[str]:
    return sorted(path.name for path in (stack.folder / stack.bucket / "acme" / "originals").iterdir())


async def test_an_output_under_the_routes_own_folder_starts_no_other_run(
    stack: LocalStack, photo: bytes
) -> None:
    await stack.upload("acme/originals/a.jpg", photo)
    await stack.wait_until(lambda: stack.backend.callbacks)
    await stack.settled()

    assert len(originals(stack)) == 2
    assert len(stack.runs) == 1
    assert Counter(ended.outcome.reason for ended in stack.ended)["ignored_own_output"] == 1
    assert (len(stack.backend.callbacks), stack.backend.duplicates) == (1, 0)


async def test_a_persons_copy_of_an_output_is_a_photo_like_any_other(stack: LocalStack, photo: bytes) -> None:
    await stack.upload("acme/originals/a.jpg", photo)
    await stack.wait_until(lambda: stack.backend.callbacks)
    await stack.settled()
    output = next(name for name in originals(stack) if name != "a.jpg")
    stored = await stack.store.read(stack.bucket, f"acme/originals/{output}")

    # A copy keeps the metadata, as in Cloud Storage.
    await stack.upload("acme/originals/b.jpg", stored.data, metadata=stored.info.metadata)
    await stack.wait_until(lambda: len(stack.backend.callbacks) == 2)
    await stack.settled()

    assert len(stack.runs) == 2


async def test_a_worker_that_was_stopped_is_followed_by_another(stack: LocalStack, photo: bytes) -> None:
    await stack.stop_worker()
    await stack.upload("acme/originals/a.jpg", photo)
    assert not stack.backend.callbacks

    await stack.start_worker()
    await stack.wait_until(lambda: stack.backend.callbacks and stack.results.deliveries)

    result = await stack.read_result(stack.results.deliveries[0])
    assert (result.status, result.tenant_id) == ("succeeded", "acme")


async def test_bytes_that_are_no_request_become_a_dead_letter(stack: LocalStack) -> None:
    await stack.publish_bytes(b"hello", origin="test")
    await stack.wait_until(lambda: stack.dead_letters.deliveries)

    letter = stack.dead_letters.deliveries[0]
    assert letter.data == b"hello"
    assert letter.attributes["origin"] == "test"
    assert letter.attributes["mlworker-error-code"] == "malformed_message"


async def test_the_environment_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BUCKET": "production", "BACKEND_URL": "https://example.com", "SLOTS": "9"}.items():
        monkeypatch.setenv(name, value)
    settings: dict[str, Any] = {"slots": 2}
    stack = LocalStack(tmp_path, pipeline=WRITES_ORIGINALS, settings=settings)

    async with stack.peers():
        assert stack.settings.bucket == stack.bucket
        assert str(stack.settings.backend_url).startswith("http://127.0.0.1:")
        assert stack.settings.slots == 2
