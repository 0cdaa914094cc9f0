"""Leases of many letters at once: renewed together, and handed back whatever happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc
import pytest

from consumer.broker import BrokerUnavailable, Delivery, LeaseLost
from consumer.broker.pubsub import Endpoint
from consumer.broker.rpc import RetryBudget
from consumer.broker.subscriber import PubSubSubscriber
from consumer.dead_letters.holding import Holding
from tests.dead_letters.postbox import DEAD, DEAD_SUB, PostBox

Use = Callable[[PubSubSubscriber], Awaitable[None]]


def with_subscriber(post: PostBox, use: Use) -> None:
    async def whole() -> None:
        subscriber = PubSubSubscriber(
            DEAD_SUB, Endpoint(emulator=post.broker.address), 5, RetryBudget(total=1, per_call=1)
        )
        try:
            await use(subscriber)
        finally:
            await subscriber.close()

    asyncio.run(whole())


def pulled(post: PostBox) -> list[Delivery]:
    found: list[Delivery] = []

    async def pull(subscriber: PubSubSubscriber) -> None:
        found.extend(await subscriber.pull(1000))

    with_subscriber(post, pull)
    return found


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def fill(post: PostBox, count: int) -> None:
    for i in range(count):
        post.broker.publish(DEAD, b"%d" % i)


def test_what_is_held_is_leased_at_once_and_handed_back_at_the_end(post: PostBox) -> None:
    fill(post, 3)

    async def use(subscriber: PubSubSubscriber) -> None:
        async with Holding(subscriber, lease_seconds=77) as holding:
            deliveries = await subscriber.pull(10)
            await holding.hold(deliveries)
            assert [rpc.seconds for rpc in post.broker.calls("ModifyAckDeadline")] == [77]
            assert all(holding.covers(one.message_id, 70) for one in deliveries)
            assert not holding.covers(deliveries[0].message_id, 80)
            assert post.broker.leased(DEAD_SUB) == 3
        assert post.broker.leased(DEAD_SUB) == 0

    with_subscriber(post, use)


def test_leases_are_renewed_a_thousand_to_a_call(post: PostBox) -> None:
    fill(post, 1500)

    async def use(subscriber: PubSubSubscriber) -> None:
        async with Holding(subscriber, lease_seconds=4) as holding:
            while len(holding) < 1500:
                await holding.hold(await subscriber.pull(1000))
            before = len(post.broker.calls("ModifyAckDeadline"))
            await until(lambda: len(post.broker.calls("ModifyAckDeadline")) >= before + 2)
            renewals = post.broker.calls("ModifyAckDeadline")[before : before + 2]
            assert sorted(rpc.ids for rpc in renewals) == [500, 1000]
        assert post.broker.leased(DEAD_SUB) == 0

    with_subscriber(post, use)


def test_an_error_inside_hands_back_too(post: PostBox) -> None:
    fill(post, 2)

    async def use(subscriber: PubSubSubscriber) -> None:
        async def cut_short() -> None:
            async with Holding(subscriber) as holding:
                await holding.hold(await subscriber.pull(10))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await cut_short()
        assert post.broker.leased(DEAD_SUB) == 0

    with_subscriber(post, use)


def test_what_is_acked_is_gone_and_not_handed_back(post: PostBox) -> None:
    fill(post, 2)

    async def use(subscriber: PubSubSubscriber) -> None:
        async with Holding(subscriber) as holding:
            first, second = await subscriber.pull(10)
            await holding.hold([first, second])
            await holding.acknowledge(first.message_id)
            with pytest.raises(LeaseLost):
                await holding.acknowledge(first.message_id)
        handed_back = [rpc for rpc in post.broker.calls("ModifyAckDeadline") if rpc.seconds == 0]
        assert [rpc.ack_ids for rpc in handed_back] == [(second.ack_id,)]

    with_subscriber(post, use)
    assert post.left == 1


def test_a_lease_that_ran_out_covers_nothing_more(post: PostBox) -> None:
    fill(post, 1)
    now = [0.0]

    async def use(subscriber: PubSubSubscriber) -> None:
        async with Holding(subscriber, lease_seconds=4, clock=lambda: now[0]) as holding:
            [only] = await subscriber.pull(10)
            await holding.hold([only])
            assert holding.covers(only.message_id, 3)
            now[0] = 100.0  # the process was stopped for a while
            assert not holding.covers(only.message_id, 0)
            before = len(post.broker.calls("ModifyAckDeadline"))
            await until(lambda: len(post.broker.calls("ModifyAckDeadline")) > before)
            assert not holding.covers(only.message_id, 0), "somebody else may have it by now"

    with_subscriber(post, use)


def test_a_broker_that_is_away_at_the_end_is_told(post: PostBox) -> None:
    fill(post, 2)

    async def use(subscriber: PubSubSubscriber) -> None:
        async with Holding(subscriber) as holding:
            await holding.hold(await subscriber.pull(10))
            post.broker.fail("ModifyAckDeadline", grpc.StatusCode.UNAVAILABLE)
        assert holding.left_leased == 2

    with_subscriber(post, use)
    post.broker.heal()


def test_an_ack_that_is_not_confirmed_is_an_error(post: PostBox) -> None:
    fill(post, 1)

    async def use(subscriber: PubSubSubscriber) -> None:
        async with Holding(subscriber) as holding:
            [only] = await subscriber.pull(10)
            await holding.hold([only])
            post.broker.fail("Acknowledge", grpc.StatusCode.UNAVAILABLE)
            with pytest.raises(BrokerUnavailable):
                await holding.acknowledge(only.message_id)

    with_subscriber(post, use)
    post.broker.heal()
