"""StreamingPull, for the clients that use it: the official library among them. The worker does not."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import grpc
from google.pubsub_v1 import types

from consumer.local.pubsub import wire
from consumer.local.pubsub.bells import Bells
from consumer.local.pubsub.messages import (
    MAX_ACK_DEADLINE,
    MIN_ACK_DEADLINE,
    Holder,
    Invalid,
    Leased,
    StaleAckIds,
)
from consumer.local.pubsub.subscriptions import Subscription
from consumer.local.pubsub.topics import Broker

_MESSAGES_PER_RESPONSE = 100
_BYTES_PER_RESPONSE = 10_000_000

_Response = types.StreamingPullResponse.pb()
_AcknowledgeConfirmation = types.StreamingPullResponse.AcknowledgeConfirmation.pb()
_ModifyConfirmation = types.StreamingPullResponse.ModifyAckDeadlineConfirmation.pb()


class StreamingPull:
    """One stream: deliveries go out while acks and new deadlines come in."""

    def __init__(
        self, broker: Broker, bells: Bells, first: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        self._broker = broker
        self._bells = bells
        self._context = context
        self._name: str = first.subscription
        self._lease_seconds = _lease_seconds(first)
        self._max_messages: int = first.max_outstanding_messages
        self._max_bytes: int = first.max_outstanding_bytes
        self._first = first
        self._holder = Holder()
        # Confirmations wait for the one task that writes: two may not write to a stream at once.
        self._confirmations: deque[Any] = deque()

    async def run(self, requests: AsyncIterator[Any]) -> None:
        """Serve the stream until the client ends it or the subscription is deleted."""
        self._subscription()
        self._take(self._first)
        reader = asyncio.create_task(self._read(requests))
        try:
            while not reader.done():
                if not await self._send():
                    await self._bells.wait(self._name, None)
            reader.result()
        finally:
            reader.cancel()

    def _subscription(self) -> Subscription:
        return self._broker.subscription(self._name)

    async def _send(self) -> bool:
        """Send what there is; False if there was nothing."""
        sent = False
        while self._confirmations:
            await self._context.write(self._confirmations.popleft())
            sent = True
        taken = self._pull()
        if taken:
            config = self._subscription().config
            response = _Response(
                received_messages=[wire.received(leased) for leased in taken],
                subscription_properties=wire.SubscriptionProperties(
                    exactly_once_delivery_enabled=config.exactly_once,
                    message_ordering_enabled=config.ordered,
                ),
            )
            await self._context.write(response)
            sent = True
        return sent

    def _pull(self) -> list[Leased]:
        room, room_bytes = _MESSAGES_PER_RESPONSE, _BYTES_PER_RESPONSE
        if self._max_messages > 0:
            room = min(room, self._max_messages - self._holder.messages)
        if self._max_bytes > 0:
            room_bytes = min(room_bytes, self._max_bytes - self._holder.bytes)
        # Also without room the subscription is asked: that is how its deletion is noticed.
        return self._subscription().pull(
            self._broker.now(), max(room, 0), self._lease_seconds, self._holder, room_bytes
        )

    async def _read(self, requests: AsyncIterator[Any]) -> None:
        try:
            async for request in requests:
                if request.stream_ack_deadline_seconds:
                    self._lease_seconds = _lease_seconds(request)
                self._take(request)
        finally:
            self._bells.ring(self._name)  # the writer looks at how the reading ended

    def _take(self, request: Any) -> None:
        """Apply the acks and deadlines of one request."""
        subscription, now = self._subscription(), self._broker.now()
        if request.ack_ids:
            stale = _stale(partial(subscription.acknowledge, now, request.ack_ids))
            self._confirm(
                acknowledge_confirmation=_AcknowledgeConfirmation(
                    ack_ids=[ack_id for ack_id in request.ack_ids if ack_id not in stale],
                    invalid_ack_ids=sorted(stale),
                )
            )
        if len(request.modify_deadline_ack_ids) != len(request.modify_deadline_seconds):
            raise Invalid("modify_deadline_ack_ids and modify_deadline_seconds must be of one length")
        wanted = list(zip(request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=True))
        if wanted:
            stale = frozenset()
            for ack_id, seconds in wanted:
                stale |= _stale(partial(subscription.modify_deadline, now, [ack_id], seconds))
            self._confirm(
                modify_ack_deadline_confirmation=_ModifyConfirmation(
                    ack_ids=[ack_id for ack_id, _ in wanted if ack_id not in stale],
                    invalid_ack_ids=sorted(stale),
                )
            )

    def _confirm(self, **confirmation: Any) -> None:
        if self._subscription().config.exactly_once:
            self._confirmations.append(_Response(**confirmation))
            self._bells.ring(self._name)


def _stale(call: Callable[[], None]) -> frozenset[str]:
    try:
        call()
    except StaleAckIds as refusal:
        return refusal.ack_ids
    return frozenset()


def _lease_seconds(request: Any) -> int:
    seconds: int = request.stream_ack_deadline_seconds
    if not MIN_ACK_DEADLINE <= seconds <= MAX_ACK_DEADLINE:
        raise Invalid("stream_ack_deadline_seconds must be between 10 and 600")
    return seconds
