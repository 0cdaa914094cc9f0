"""The clients under test behind one face: our adapter, and Google's own library."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import grpc
from google.api_core import exceptions as google_errors
from google.cloud import pubsub_v1
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import PubsubMessage

from consumer.broker import BrokerMisconfigured, Delivery, LeaseLost
from consumer.broker.publisher import PubSubPublisher
from consumer.broker.pubsub import Endpoint
from consumer.broker.subscriber import PubSubSubscriber

PROJECT = "conformance"
PULL_TIMEOUT = 10.0


class Client(Protocol):
    """One subscription's messages, and publishing to any topic."""

    missing: type[Exception]
    """What it raises for a topic or subscription that does not exist."""
    refused: type[Exception]
    """What it raises for a lease that is over, where delivery is exactly once."""

    async def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str: ...
    async def pull(self, subscription: str, max_messages: int) -> Sequence[Delivery]: ...
    async def acknowledge(self, subscription: str, ack_ids: Sequence[str]) -> None: ...
    async def modify_deadline(self, subscription: str, ack_ids: Sequence[str], seconds: int) -> None: ...
    async def close(self) -> None: ...


class Ours:
    """The worker's adapter."""

    missing = BrokerMisconfigured
    refused = LeaseLost

    def __init__(self, address: str) -> None:
        self._endpoint = Endpoint(emulator=address)
        self._publisher = PubSubPublisher(PROJECT, self._endpoint)
        self._subscribers: dict[str, PubSubSubscriber] = {}

    async def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        return await self._publisher.publish(topic, data, attributes)

    async def pull(self, subscription: str, max_messages: int) -> Sequence[Delivery]:
        return await self._subscriber(subscription).pull(max_messages)

    async def acknowledge(self, subscription: str, ack_ids: Sequence[str]) -> None:
        await self._subscriber(subscription).acknowledge(ack_ids)

    async def modify_deadline(self, subscription: str, ack_ids: Sequence[str], seconds: int) -> None:
        await self._subscriber(subscription).modify_deadline(ack_ids, seconds)

    async def close(self) -> None:
        await self._publisher.close()
        for subscriber in self._subscribers.values():
            await subscriber.close()

    def _subscriber(self, subscription: str) -> PubSubSubscriber:
        if subscription not in self._subscribers:
            self._subscribers[subscription] = PubSubSubscriber(
                subscription, self._endpoint, pull_timeout=PULL_TIMEOUT
            )
        return self._subscribers[subscription]


class Googles:
    """Google's library: its publisher, and its subscriber's unary calls."""

    missing = google_errors.NotFound
    refused = google_errors.InvalidArgument

    def __init__(self, address: str) -> None:
        self._channels = [channel_to(address), channel_to(address)]
        self._publisher = pubsub_v1.PublisherClient(
            transport=PublisherGrpcTransport(channel=self._channels[0])
        )
        self.subscriber = pubsub_v1.SubscriberClient(
            transport=SubscriberGrpcTransport(channel=self._channels[1])
        )

    async def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        future = self._publisher.publish(topic, data, **attributes)
        message_id: str = await asyncio.to_thread(future.result, 20)
        return message_id

    async def pull(self, subscription: str, max_messages: int) -> Sequence[Delivery]:
        try:
            response = await asyncio.to_thread(
                self.subscriber.pull,
                subscription=subscription,
                max_messages=max_messages,
                timeout=PULL_TIMEOUT,
                retry=None,
            )
        except google_errors.DeadlineExceeded:
            return ()
        return [_delivery(received) for received in response.received_messages]

    async def acknowledge(self, subscription: str, ack_ids: Sequence[str]) -> None:
        await asyncio.to_thread(self.subscriber.acknowledge, subscription=subscription, ack_ids=ack_ids)

    async def modify_deadline(self, subscription: str, ack_ids: Sequence[str], seconds: int) -> None:
        await asyncio.to_thread(
            self.subscriber.modify_ack_deadline,
            subscription=subscription,
            ack_ids=ack_ids,
            ack_deadline_seconds=seconds,
        )

    async def close(self) -> None:
        self._publisher.stop()
        for channel in self._channels:
            channel.close()


class Admin:
    """Creates and inspects, by Google's generated clients."""

    def __init__(self, address: str) -> None:
        self._channels = [channel_to(address), channel_to(address)]
        self.topics = PublisherClient(transport=PublisherGrpcTransport(channel=self._channels[0]))
        self.subscriptions = SubscriberClient(transport=SubscriberGrpcTransport(channel=self._channels[1]))

    def publish(self, topic: str, **message: Any) -> str:
        """Publish one message as it is: no client checks it first."""
        message_id: str = self.topics.publish(topic=topic, messages=[PubsubMessage(**message)]).message_ids[0]
        return message_id

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


def channel_to(address: str) -> grpc.Channel:
    """A channel as to the real service: without the 4 MB limit that emulator channels have by default."""
    return grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])


def _delivery(received: Any) -> Delivery:
    message = received.message
    return Delivery(
        ack_id=received.ack_id,
        message_id=message.message_id,
        data=message.data,
        attributes=dict(message.attributes),
        publish_time=message.publish_time,
        delivery_attempt=received.delivery_attempt or None,
    )
