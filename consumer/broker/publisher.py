"""The publisher's port over Pub/Sub: one message per call, confirmed or refused within a bounded time.

Google's own publisher batches in threads, and a future of it may never resolve (a failed token refresh ends
the thread, a lost connection is retried for ten minutes). Here nothing happens out of sight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import grpc

from consumer.broker import MessageTooLarge
from consumer.broker.messages import types
from consumer.broker.pubsub import Endpoint, full_name
from consumer.broker.rpc import DEFAULT_BUDGET, Method, RetryBudget, RpcFailed, unary

MAX_REQUEST_BYTES = 10_000_000
MAX_ATTRIBUTES = 100
MAX_KEY_BYTES = 256
MAX_VALUE_BYTES = 1024

_PublishRequest = types.PublishRequest.pb()
_PublishResponse = types.PublishResponse.pb()
_Message = types.PubsubMessage.pb()


class PubSubPublisher:
    """Publishes to the topics of one project, or to any by its full name.

    Args:
        project: of topics that are given by their short name.
        endpoint: where Pub/Sub is.
        budget: how long one message is tried.
    """

    def __init__(self, project: str, endpoint: Endpoint, budget: RetryBudget = DEFAULT_BUDGET) -> None:
        self._project = project
        self._endpoint = endpoint.ready()
        self._budget = budget
        self._line = _Line(self._endpoint)

    async def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        """Publish one message and return the id the broker gave it.

        Raises:
            BrokerUnavailable: not confirmed in time; it may have been stored all the same.
            BrokerMisconfigured: no such topic, no permission, or no token.
            MessageTooLarge: over the limits of Pub/Sub.
        """
        name = full_name(topic, "topics", self._project)
        request = _PublishRequest(topic=name, messages=[_Message(data=data, attributes=dict(attributes))])
        check_size(request, attributes)
        failure: RpcFailed | None = None
        for pause, timeout in self._budget.attempts():
            await asyncio.sleep(pause)
            line = self._line
            try:
                response = await line.publish(name, request, timeout)
            except RpcFailed as failed:
                failure = failed
                if failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                    self._replace(line)
                if not failure.retryable:
                    break
            else:
                message_id: str = response.message_ids[0]
                return message_id
        assert failure is not None  # noqa: S101 (there is always a first attempt)
        raise failure.as_broker_error(f"publish to {name}") from failure

    async def close(self) -> None:
        """Release the connection."""
        self._line.retire(now=True)

    def _replace(self, hung: _Line) -> None:
        """Publish over a new connection: one that swallows calls may do so for as long as it lives."""
        if self._line is hung:  # else another message has seen to it
            self._line = _Line(self._endpoint)
            hung.retire()


class _Line:
    """A connection that is closed when it is replaced and the last call over it is back."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._channel = endpoint.connect()
        self._methods: dict[str, Method] = {}
        self._calls = 0
        self._retired = False

    async def publish(self, topic: str, request: Any, timeout: float) -> Any:
        method = self._methods.get(topic)
        if method is None:
            routing = f"topic={quote(topic, safe='')}"
            method = unary(self._channel, "Publisher", "Publish", _PublishRequest, _PublishResponse, routing)
            self._methods[topic] = method
        self._calls += 1
        try:
            return await method(request, timeout)
        finally:
            self._calls -= 1
            if self._retired and not self._calls:
                self._channel.close()

    def retire(self, now: bool = False) -> None:
        self._retired = True
        if now or not self._calls:
            self._channel.close()


def check_size(request: Any, attributes: Mapping[str, str]) -> None:
    """Refuse here what Pub/Sub would refuse, so that its answer is not mistaken for a wrong configuration."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise MessageTooLarge(f"{len(attributes)} attributes; Pub/Sub takes {MAX_ATTRIBUTES}")
    for key, value in attributes.items():
        if len(key.encode()) > MAX_KEY_BYTES:
            raise MessageTooLarge(f"attribute {key[:40]}…: its name is over {MAX_KEY_BYTES} bytes")
        if len(value.encode()) > MAX_VALUE_BYTES:
            raise MessageTooLarge(
                f"attribute {key}: {len(value.encode())} bytes; Pub/Sub takes {MAX_VALUE_BYTES}"
            )
    size: int = request.ByteSize()
    if size >= MAX_REQUEST_BYTES:
        raise MessageTooLarge(f"{size} bytes; Pub/Sub takes less than {MAX_REQUEST_BYTES}")
