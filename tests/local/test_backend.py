"""The small backend takes callbacks as the real one does, and can be away for a while."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import httpx
import pytest

from consumer.local.backend import CALLBACKS, LEGACY, SmallBackend

pytestmark = pytest.mark.anyio

SESSION, IMAGE = str(uuid4()), str(uuid4())
RESULT = {
    "sessionId": SESSION,
    "imageId": IMAGE,
    "detections": [
        {"label": "plant", "confidence": 0.9, "boundingBox": {"x1": 1, "y1": 2, "x2": 3, "y2": 4}}
    ],
    "classifications": None,
    "estimations": [{"estimationType": "COUNT", "value": 1.0, "unit": "units"}],
}
ERROR = {"sessionId": SESSION, "imageId": IMAGE, "errorMessage": "not a picture"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def backend() -> SmallBackend:
    async def picture(tenant_id: str, image_id: UUID) -> bytes | None:
        return b"jpeg" if (tenant_id, str(image_id)) == ("acme", IMAGE) else None

    async def publish(data: bytes) -> str:
        published.append(data)
        return "7"

    published: list[bytes] = []
    return SmallBackend(picture, publish, note="<inbox>")


@pytest.fixture
async def client(backend: SmallBackend) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(backend.app())
    async with httpx.AsyncClient(transport=transport, base_url="http://backend") as client:
        yield client


async def send(
    client: httpx.AsyncClient, body: object, path: str = f"{CALLBACKS}/results", key: str = "k1"
) -> httpx.Response:
    event = "error" if path.endswith("/error") else "result"
    headers = {"X-Tenant-ID": "acme", "X-MLWorker-Event": event, "Idempotency-Key": key}
    return await client.post(path, json=body, headers=headers)


async def test_a_result_is_answered_with_the_sessions_status(client: httpx.AsyncClient) -> None:
    answer = await send(client, RESULT)

    assert answer.status_code == 200
    assert answer.json() == {
        "sessionId": SESSION,
        "status": "COMPLETED",
        "totalImages": 1,
        "processedImages": 1,
        "progress": 100.0,
    }


async def test_the_same_key_takes_effect_once(client: httpx.AsyncClient, backend: SmallBackend) -> None:
    await send(client, RESULT)
    again = await send(client, RESULT)
    await send(client, RESULT, key="k2")

    assert again.status_code == 200
    assert [callback.key for callback in backend.callbacks] == ["k1", "k2"]
    assert (backend.duplicates, backend.requests) == (1, 3)


async def test_an_error_fails_the_session_and_is_not_the_results_duplicate(
    client: httpx.AsyncClient, backend: SmallBackend
) -> None:
    failed = await send(client, ERROR, f"{CALLBACKS}/error")
    await send(client, RESULT)

    assert failed.json()["status"] == "FAILED"
    assert [callback.event for callback in backend.callbacks] == ["error", "result"]


async def test_the_older_url_takes_the_older_body(client: httpx.AsyncClient, backend: SmallBackend) -> None:
    body = {"sessionId": SESSION, "imageId": IMAGE, "success": True, "pipeline": "FULL", "durationMs": 5}

    answer = await send(client, body, LEGACY)

    assert answer.status_code == 200
    assert backend.callbacks[0].event == "result"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({**RESULT, "sessionId": "no uuid"}, "sessionId"),
        ({**RESULT, "plants": 3}, "plants"),
        ({**RESULT, "detections": [{"label": "plant"}]}, "detections.0.confidence"),
        ("text", "object"),
    ],
)
async def test_a_body_that_breaks_the_contract_is_refused_with_the_reason(
    client: httpx.AsyncClient, backend: SmallBackend, body: object, reason: str
) -> None:
    answer = await send(client, body)

    assert answer.status_code == 400
    assert reason in answer.json()["message"]
    assert not backend.callbacks
    assert len(backend.refused) == 1


async def test_a_callback_without_its_tenant_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{CALLBACKS}/results", json=RESULT)

    assert answer.status_code == 400


async def test_an_outage_ends_when_it_has_hit_often_enough(
    client: httpx.AsyncClient, backend: SmallBackend
) -> None:
    backend.outage(429, times=2, retry_after=3)

    answers = [await send(client, RESULT) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "3"
    assert (len(backend.callbacks), backend.duplicates) == (1, 0)


async def test_an_outage_ends_when_it_is_lifted(client: httpx.AsyncClient, backend: SmallBackend) -> None:
    with backend.outage(503) as outage:
        during = await send(client, RESULT)
    after = await send(client, RESULT)

    assert (during.status_code, after.status_code, outage.hits) == (503, 200, 1)


async def test_an_outage_ends_with_its_time(client: httpx.AsyncClient, backend: SmallBackend) -> None:
    backend.outage(503, seconds=0)

    assert (await send(client, RESULT)).status_code == 200


async def test_a_callback_whose_answer_was_lost_counts_when_it_comes_again(
    client: httpx.AsyncClient, backend: SmallBackend
) -> None:
    backend.outage(502, times=1, applied=True)

    lost, again = await send(client, RESULT), await send(client, RESULT)

    assert (lost.status_code, again.status_code) == (502, 200)
    assert (len(backend.callbacks), backend.duplicates) == (1, 1)


async def test_the_list_gives_what_is_new(client: httpx.AsyncClient) -> None:
    for key in ("k1", "k2", "k3"):
        await send(client, RESULT, key=key)

    listed = (await client.get("/callbacks?since=2")).json()

    assert (listed["effective"], listed["duplicates"]) == (3, 0)
    assert [callback["key"] for callback in listed["callbacks"]] == ["k3"]
    assert listed["callbacks"][0]["body"]["estimations"][0]["estimationType"] == "COUNT"


async def test_the_page_fetches_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = (await client.get("/")).text

    assert "&lt;inbox&gt;" in page
    assert "://" not in page


async def test_pictures_are_served_and_missing_ones_are_not_found(client: httpx.AsyncClient) -> None:
    found = await client.get(f"/pictures/acme/{IMAGE}.jpg")
    missing = await client.get(f"/pictures/other/{IMAGE}.jpg")

    assert (found.content, found.headers["Content-Type"]) == (b"jpeg", "image/jpeg")
    assert missing.status_code == 404


async def test_publish_fills_in_missing_ids(client: httpx.AsyncClient) -> None:
    answer = await client.post("/publish", json={"tenant_id": "acme", "image_id": IMAGE})

    assert answer.json()["message_id"] == "7"
    assert answer.json()["image_id"] == IMAGE
    assert UUID(answer.json()["session_id"])


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [(b"{", "application/json", 400), (b"[]", "application/json", 400), (b"{}", "text/plain", 415)],
)
async def test_publish_takes_json_objects_alone(
    client: httpx.AsyncClient, content: bytes, kind: str, status: int
) -> None:
    answer = await client.post("/publish", content=content, headers={"Content-Type": kind})

    assert answer.status_code == status


async def test_a_taken_port_is_an_error_that_names_it(backend: SmallBackend) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(OSError, match=str(port)):
            async with backend.serve(port=port):
                pytest.fail("it served on a port that was taken")
