"""What the embedded server remembers of every message, and how it misbehaves on demand."""

from __future__ import annotations

import asyncio

import pytest
from grpc import StatusCode

from consumer.broker import Delivery, LeaseLost
from consumer.broker.publisher import PubSubPublisher
from consumer.broker.pubsub import Endpoint
from consumer.broker.subscriber import PubSubSubscriber
from consumer.local.pubsub import Deed, EmbeddedPubSub, Journal

TOPIC, SUBSCRIPTION = "projects/p/topics/work", "projects/p/subscriptions/work"


def opened(journal: Journal | None = None, **fields: object) -> EmbeddedPubSub:
    server = EmbeddedPubSub(journal=journal)
    server.start()
    server.create_topic(TOPIC)
    server.create_subscription(SUBSCRIPTION, TOPIC, **fields)
    return server


def pulled(server: EmbeddedPubSub, most: int = 1) -> list[Delivery]:
    async def pull() -> list[Delivery]:
        subscriber = PubSubSubscriber(SUBSCRIPTION, Endpoint(emulator=server.address), pull_timeout=2)
        found = list(await subscriber.pull(most))
        await subscriber.close()
        return found

    return asyncio.run(pull())


def acked(server: EmbeddedPubSub, ack_id: str) -> None:
    async def acknowledge() -> None:
        subscriber = PubSubSubscriber(SUBSCRIPTION, Endpoint(emulator=server.address))
        try:
            await subscriber.acknowledge([ack_id])
        finally:
            await subscriber.close()

    asyncio.run(acknowledge())


def test_a_message_s_whole_life_is_in_the_journal() -> None:
    journal = Journal()
    with opened(journal) as server:
        message_id = server.publish(TOPIC, b"leaf")
        pulled(server)
        server.end_leases(SUBSCRIPTION)
        (delivery,) = pulled(server)
        acked(server, delivery.ack_id)

    deeds = [line.deed for line in journal if line.message.id == message_id]
    assert deeds == [Deed.PUBLISHED, Deed.LEASED, Deed.EXPIRED, Deed.LEASED, Deed.ACKED]
    assert [line.at for line in journal] == sorted(line.at for line in journal)
    assert [line.where for line in journal.lines(Deed.PUBLISHED)] == [TOPIC]


def test_an_ack_that_came_too_late_is_not_in_the_journal() -> None:
    journal = Journal()
    with opened(journal) as server:
        server.publish(TOPIC, b"leaf")
        (delivery,) = pulled(server)
        server.end_leases(SUBSCRIPTION)
        acked(server, delivery.ack_id)

    assert journal.lines(Deed.ACKED) == []


def test_leases_are_ended_for_chosen_messages_only() -> None:
    with opened() as server:
        first, second = server.publish(TOPIC, b"1"), server.publish(TOPIC, b"2")
        pulled(server, 2)

        assert server.end_leases(SUBSCRIPTION, lambda message: message.id == second) == 1
        assert [delivery.message_id for delivery in pulled(server, 2)] == [second]
        assert server.leased(SUBSCRIPTION) == 2
        assert first != second


def test_a_lease_that_was_ended_is_refused_where_delivery_is_exactly_once() -> None:
    with opened(enable_exactly_once_delivery=True) as server:
        server.publish(TOPIC, b"leaf")
        (delivery,) = pulled(server)
        server.end_leases(SUBSCRIPTION)

        with pytest.raises(LeaseLost):
            acked(server, delivery.ack_id)


def test_a_pull_returns_more_than_it_asked_for_until_the_server_is_healed() -> None:
    with opened() as server:
        for number in range(5):
            server.publish(TOPIC, b"%d" % number)
        server.over_deliver(2)
        assert len(pulled(server, 1)) == 3
        server.heal()
        assert len(pulled(server, 1)) == 1


def test_a_call_that_is_applied_and_then_delayed_is_applied_once() -> None:
    journal = Journal()
    with opened(journal) as server:
        server.fail("Publish", delay=0.1, applied=True)

        async def publish() -> str:
            publisher = PubSubPublisher("p", Endpoint(emulator=server.address))
            try:
                return await publisher.publish(TOPIC, b"leaf", {})
            finally:
                await publisher.close()

        message_id = asyncio.run(publish())

    assert [line.message.id for line in journal.lines(Deed.PUBLISHED)] == [message_id]


def test_the_journal_goes_on_over_a_restart() -> None:
    journal = Journal()
    with opened(journal) as server:
        port = int(server.address.rsplit(":", 1)[1])
        server.publish(TOPIC, b"1")
        server.stop()
        server.start(port)
        server.fail("Pull", StatusCode.UNAVAILABLE, times=1)
        server.publish(TOPIC, b"2")

    assert [line.message.data for line in journal.lines(Deed.PUBLISHED)] == [b"1", b"2"]
