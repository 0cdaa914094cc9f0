"""`mlworker submit`: one request, checked here and published as the backend would."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import orjson

from consumer.broker.publisher import PubSubPublisher
from consumer.broker.pubsub import Endpoint
from consumer.decode import FORCE
from consumer.validation import validate_text


class InvalidRequest(ValueError):
    """The request would be refused; the message lists every reason."""


def request_of(
    tenant: str,
    image: str,
    pipeline: str,
    session: str | None = None,
    image_id: str | None = None,
    callback_url: str | None = None,
) -> dict[str, Any]:
    """Return the request's body.

    Args:
        tenant: whose photo it is.
        image: its `gs://` url.
        pipeline: JSON of the definition.
        session: session id; None makes a new one.
        image_id: image id; None makes a new one.
        callback_url: instead of the backend's own.

    Raises:
        InvalidRequest: with every problem, each with its path.
    """
    try:
        definition = orjson.loads(pipeline)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"pipeline: not JSON: {error}") from error
    request = {
        "tenant_id": tenant,
        "session_id": session or str(uuid4()),
        "image_id": image_id or str(uuid4()),
        "image_url": image,
        "pipeline_definition": definition,
        "callback_url": callback_url,
    }
    # The worker that will get it may have other models than this machine: only it can judge those.
    report = validate_text(orjson.dumps(request).decode())
    problems = [problem for problem in report.problems if "model" not in problem.path.rpartition(".")[2]]
    if problems:
        raise InvalidRequest("\n".join(map(str, problems)))
    return request


async def submit_request(
    request: dict[str, Any], project: str, topic: str, emulator: str | None, *, force: bool
) -> str:
    """Publish the request and return the message's id.

    Raises:
        BrokerError: it was not confirmed.
    """
    publisher = PubSubPublisher(project, Endpoint(emulator=emulator))
    try:
        return await publisher.publish(topic, orjson.dumps(request), {FORCE: "1"} if force else {})
    finally:
        await publisher.close()
