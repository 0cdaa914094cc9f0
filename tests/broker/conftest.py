"""An embedded Pub/Sub server for each test, with one topic and one subscription of the shortest deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from consumer.broker.pubsub import Endpoint
from consumer.local.pubsub import EmbeddedPubSub

TOPIC = "projects/p/topics/photos"
SUBSCRIPTION = "projects/p/subscriptions/photos"

WaitUntil = Callable[[Callable[[], bool]], None]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> Iterator[EmbeddedPubSub]:
    with EmbeddedPubSub() as server:
        server.create_topic(TOPIC)
        server.create_subscription(SUBSCRIPTION, TOPIC, ack_deadline_seconds=10)
        yield server


@pytest.fixture
def topic(server: EmbeddedPubSub) -> str:
    return TOPIC


@pytest.fixture
def subscription(server: EmbeddedPubSub) -> str:
    return SUBSCRIPTION


@pytest.fixture
def endpoint(server: EmbeddedPubSub) -> Endpoint:
    return Endpoint(emulator=server.address)


@pytest.fixture
def wait_until() -> WaitUntil:
    """Wait for a condition, for at most 20 s."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "it did not come about in 20 s"
            time.sleep(0.005)

    return wait
