"""A reader of a topic for local mode: takes every message of a subscription, keeps it, and acks it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import orjson
import structlog

from consumer.broker import BrokerError, Delivery, Subscriber
from consumer.local.tasks import ended
from consumer.storage import ObjectStore
from contracts.request import split_object_url
from contracts.result import ClaimCheck, ProcessingResult

log = structlog.get_logger()

_AT_A_TIME = 100
_PAUSE = 0.5


class Collector:
    """Collects deliveries while its context lasts.

    Args:
        subscriber: closed with the context.
    """

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self._task: asyncio.Task[None] | None = None
        self.deliveries: list[Delivery] = []
        """In the order they came; the broker may deliver one twice."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._collect(), name="collector")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await ended(self._task)
        await self._subscriber.close()

    async def _collect(self) -> None:
        while True:
            try:
                deliveries = await self._subscriber.pull(_AT_A_TIME)
                self.deliveries += deliveries
                if deliveries:
                    await self._subscriber.acknowledge([delivery.ack_id for delivery in deliveries])
            except BrokerError as error:
                log.warning("collector_waits", error=str(error))
                await asyncio.sleep(_PAUSE)


async def read_result(delivery: Delivery, store: ObjectStore) -> ProcessingResult:
    """Return the result that a message of the results topic carries, or points to if it is large."""
    if "result_url" not in orjson.loads(delivery.data):
        return ProcessingResult.model_validate_json(delivery.data)
    check = ClaimCheck.model_validate_json(delivery.data)
    stored = await store.read(*split_object_url(check.result_url))
    return ProcessingResult.model_validate_json(stored.data)
