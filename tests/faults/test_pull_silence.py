"""Nobody answers a pull, though there are messages: the subscription is pulled over another connection."""

from __future__ import annotations

import asyncio
import math

import pytest

from consumer.broker.pubsub import Endpoint
from consumer.broker.subscriber import PubSubSubscriber
from tests.faults.peers import WORK, Peers

PULL_TIMEOUT = 3.0
"""Instead of a minute and a half."""


@pytest.mark.parametrize("who", ["the broker", "the line"])
def test_b9_a_subscription_that_falls_silent_is_pulled_over_a_new_connection(peers: Peers, who: str) -> None:
    line = peers.proxy(peers.broker.address)

    async def story() -> None:
        subscriber = PubSubSubscriber(WORK, Endpoint(emulator=line.address), pull_timeout=PULL_TIMEOUT)
        try:
            first = peers.send()
            assert [each.message_id for each in await subscriber.pull(1)] == [first.message_id]
            if who == "the broker":
                peers.broker.fail("Pull", delay=math.inf, times=1)
            else:
                line.mute()
            second = peers.send()
            assert not await subscriber.pull(1)
            assert subscriber.silences == 1
            assert [each.message_id for each in await subscriber.pull(1)] == [second.message_id]
        finally:
            await subscriber.close()
        assert subscriber.silences == 1

    asyncio.run(story())
    assert line.connections == 2
    assert peers.deliveries(peers.sent[1]) == 1
