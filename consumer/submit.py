"""`mlworker submit`: one request, checked here and published as the backend would."""

from __future__ import annotations

from uuid import uuid4

import orjson

from consumer.validation import validate_json
from contracts.base import JsonObject


class InvalidRequest(ValueError):
    """The request would be refused; the message lists every reason."""


class NotPublished(Exception):
    """The broker did not confirm the message."""

    def __init__(self, reason: str, *, needs_operator: bool) -> None:
        super().__init__(reason)
        self.needs_operator = needs_operator
        """Whether trying again is no use: no such topic, no right, no credentials."""


def request_of(
    tenant: str,
    image: str,
    pipeline: bytes,
    session: str | None = None,
    image_id: str | None = None,
    callback_url: str | None = None,
) -> JsonObject:
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
    request: JsonObject = {
        "tenant_id": tenant,
        "session_id": session or str(uuid4()),
        "image_id": image_id or str(uuid4()),
        "image_url": image,
        "pipeline_definition": definition,
        "callback_url": callback_url,
    }
    try:
        data = orjson.dumps(request)
    except orjson.JSONEncodeError as error:
        raise InvalidRequest(f"pipeline: nested too deep: {str(error).lower()}") from error
    # The worker that will get it may have other models than this machine: only it can judge those.
    problems = validate_json(data, model_path=None).problems
    if problems:
        raise InvalidRequest("\n".join(map(str, problems)))
    return request


async def submit_request(
    request: JsonObject, project: str, topic: str, emulator: str | None, *, force: bool, timeout: float
) -> str:
    """Publish the request and return the message's id.

    Raises:
        NotPublished: it was not confirmed within `timeout` seconds, or is not wanted.
    """
    # Slow to import: a request that is wrong has been refused by now.
    from consumer.broker import BrokerError, BrokerUnavailable
    from consumer.broker.publisher import PubSubPublisher
    from consumer.broker.pubsub import Endpoint
    from consumer.broker.rpc import RetryBudget
    from consumer.decode import FORCE

    try:
        budget = RetryBudget(total=timeout, per_call=min(timeout, 10.0))
        publisher = PubSubPublisher(project, Endpoint(emulator=emulator), budget)
        try:
            return await publisher.publish(topic, orjson.dumps(request), {FORCE: "1"} if force else {})
        finally:
            await publisher.close()
    except BrokerError as error:
        raise NotPublished(str(error), needs_operator=not isinstance(error, BrokerUnavailable)) from error
