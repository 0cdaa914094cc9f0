"""The topics and subscriptions of local mode, made through Google's own clients, whatever the server is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
from google.api_core import exceptions as api
from google.pubsub_v1 import types
from google.pubsub_v1.services.publisher import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from consumer.broker.pubsub import Endpoint
from consumer.settings import full_name

ACK_DEADLINE = 10
"""Seconds, the shortest there is: the lease keeper must not need more."""
DEAD_LETTER_ACK_DEADLINE = 600
"""Seconds: people look at dead letters, and people are slow."""
MAX_DELIVERY_ATTEMPTS = 100
"""The broker's own dead-lettering is only a net below the worker's."""
_TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Resources:
    """Names within one project."""

    project: str = "local"
    requests_topic: str = "requests"
    results_topic: str = "results"
    dead_letter_topic: str = "dead-letters"
    worker_subscription: str = "worker"
    results_subscription: str = "results"
    dead_letter_subscription: str = "dead-letters"

    @property
    def settings(self) -> Mapping[str, str]:
        """What a worker's settings say of them."""
        return {
            "google_cloud_project": self.project,
            "subscription": self.worker_subscription,
            "requests_topic": self.requests_topic,
            "results_topic": self.results_topic,
            "dead_letter_topic": self.dead_letter_topic,
            "dead_letter_subscription": self.dead_letter_subscription,
        }

    def topic(self, name: str) -> str:
        """Return a topic's full name."""
        return full_name("topics", name, self.project)

    def subscription(self, name: str) -> str:
        """Return a subscription's full name."""
        return full_name("subscriptions", name, self.project)


def create_resources(resources: Resources, endpoint: Endpoint) -> None:
    """Create what is missing; what is there already stays as it is. Blocks."""
    channel = endpoint.connect()
    try:
        publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        for topic in (resources.requests_topic, resources.results_topic, resources.dead_letter_topic):
            _unless_there(publisher.create_topic, types.Topic(name=resources.topic(topic)))
        for subscription in _subscriptions(resources):
            _unless_there(subscriber.create_subscription, subscription)
    finally:
        channel.close()


def create_bucket(emulator: str, project: str, bucket: str) -> None:
    """Create a bucket in an emulator of Cloud Storage, unless it is there. Blocks.

    Raises:
        OSError: the emulator cannot be reached, or does not want it.
    """
    url = emulator.rstrip("/") if "://" in emulator else f"http://{emulator}"
    try:
        answer = httpx.post(
            f"{url}/storage/v1/b",
            params={"project": project},
            json={"name": bucket},
            timeout=_TIMEOUT,
            trust_env=False,
        )
    except httpx.TransportError as error:
        raise OSError(f"the storage emulator at {emulator} cannot be reached: {error}") from error
    if answer.is_error and answer.status_code != httpx.codes.CONFLICT:
        raise OSError(f"the storage emulator at {emulator} makes no bucket {bucket!r}: {answer.text[:200]}")


def _subscriptions(resources: Resources) -> list[types.Subscription]:
    def of(name: str, topic: str, ack_deadline: int = ACK_DEADLINE, **policies: Any) -> types.Subscription:
        return types.Subscription(
            name=resources.subscription(name),
            topic=resources.topic(topic),
            ack_deadline_seconds=ack_deadline,
            expiration_policy=types.ExpirationPolicy(),  # never
            **policies,
        )

    return [
        of(
            resources.worker_subscription,
            resources.requests_topic,
            retry_policy=types.RetryPolicy(
                minimum_backoff=timedelta(seconds=1), maximum_backoff=timedelta(seconds=60)
            ),
            dead_letter_policy=types.DeadLetterPolicy(
                dead_letter_topic=resources.topic(resources.dead_letter_topic),
                max_delivery_attempts=MAX_DELIVERY_ATTEMPTS,
            ),
        ),
        of(resources.results_subscription, resources.results_topic),
        of(resources.dead_letter_subscription, resources.dead_letter_topic, DEAD_LETTER_ACK_DEADLINE),
    ]


def _unless_there(create: Callable[..., Any], request: Any) -> None:
    try:
        create(request=request, timeout=_TIMEOUT)
    except api.AlreadyExists:
        return
