"""One suite for every client and every server that speaks Pub/Sub.

Our adapter and Google's own library run against the embedded server and Google's emulator. Where one of
them does otherwise than the real service, `Features` says so and `docs/pubsub-differences.md` explains; such
a test is expected to fail, and complains when it no longer does.
"""

from __future__ import annotations

import asyncio
import queue
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from broker_clients import PROJECT, Admin, Client, Googles, Ours
from google.api_core import exceptions as google_errors
from google.cloud.pubsub_v1.subscriber.exceptions import AcknowledgeStatus
from google.cloud.pubsub_v1.subscriber.message import Message
from google.cloud.pubsub_v1.types import FlowControl
from google.protobuf import duration_pb2, field_mask_pb2
from google.pubsub_v1.types import StreamingPullRequest

from consumer.broker import Delivery
from consumer.local.pubsub import EmbeddedPubSub

pytestmark = pytest.mark.anyio


@dataclass(frozen=True, slots=True)
class Features:
    """Where a server answers as the real service does, or not."""

    enforces_limits: bool = True
    """Attributes and sizes over Pub/Sub's limits are refused."""
    checks_ack_deadlines: bool = True
    """A subscription's deadline must be 10 to 600 s."""
    rests_from_the_first_nack: bool = True
    """The retry policy holds for the first redelivery too."""
    orders_redeliveries: bool = True
    """A nacked message comes again before the next one of its ordering key."""
    honours_max_outstanding: bool = True
    """A stream gets no more messages than its client can take."""
    filters: bool = True
    """A subscription may ask for a part of the topic's messages."""


EMBEDDED = Features(filters=False)
EMULATOR = Features(
    enforces_limits=False,
    checks_ack_deadlines=False,
    rests_from_the_first_nack=False,
    orders_redeliveries=False,
    honours_max_outstanding=False,
    filters=False,
)


@dataclass(frozen=True)
class Server:
    """A server under test."""

    address: str
    features: Features
    admin: Admin
    embedded: EmbeddedPubSub | None = None


@dataclass(frozen=True)
class Subject:
    """A client on a server, with a topic and a subscription of its own."""

    server: Server
    client: Client
    name: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:12]}")

    @property
    def topic(self) -> str:
        return f"projects/{PROJECT}/topics/{self.name}"

    @property
    def subscription(self) -> str:
        return f"projects/{PROJECT}/subscriptions/{self.name}"

    @property
    def dead_topic(self) -> str:
        return f"{self.topic}-dead"

    @property
    def dead_subscription(self) -> str:
        return f"{self.subscription}-dead"

    def create(self, **fields: Any) -> None:
        admin = self.server.admin
        admin.topics.create_topic(name=self.topic)
        admin.topics.create_topic(name=self.dead_topic)
        request = {"name": self.dead_subscription, "topic": self.dead_topic}
        admin.subscriptions.create_subscription(request=request)
        admin.subscriptions.create_subscription(
            request={"name": self.subscription, "topic": self.topic, **fields}
        )

    async def publish(self, data: str, **attributes: str) -> str:
        return await self.client.publish(self.topic, data.encode(), attributes)

    async def take(self, count: int, subscription: str = "") -> list[Delivery]:
        """Pull until so many messages are there."""
        taken: list[Delivery] = []
        async with asyncio.timeout(20):
            while len(taken) < count:
                taken += await self.client.pull(subscription or self.subscription, count - len(taken))
        return taken

    async def ack(self, *deliveries: Delivery) -> None:
        await self.client.acknowledge(self.subscription, [delivery.ack_id for delivery in deliveries])

    async def nack(self, *deliveries: Delivery) -> None:
        await self.extend(0, *deliveries)

    async def extend(self, seconds: int, *deliveries: Delivery) -> None:
        ack_ids = [delivery.ack_id for delivery in deliveries]
        await self.client.modify_deadline(self.subscription, ack_ids, seconds)


@pytest.fixture(scope="session", params=["embedded", pytest.param("emulator", marks=pytest.mark.emulator)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "emulator":
        address = request.getfixturevalue("google_emulator")
        admin = Admin(address)
        yield Server(address, EMULATOR, admin)
        admin.close()
    else:
        with EmbeddedPubSub() as embedded:
            admin = Admin(embedded.address)
            yield Server(embedded.address, EMBEDDED, admin, embedded)
            admin.close()


@pytest.fixture(params=[Ours, Googles], ids=["ours", "googles"])
async def subject(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Subject]:
    client = request.param(server.address)
    yield Subject(server, client)
    await client.close()


@pytest.fixture
async def googles(server: Server) -> AsyncIterator[Subject]:
    """For what only Google's client does, or where any client will do."""
    client = Googles(server.address)
    yield Subject(server, client)
    await client.close()


@pytest.fixture
async def ours_embedded() -> AsyncIterator[tuple[Subject, EmbeddedPubSub]]:
    """Our client on a server whose clock can be moved: for leases of the usual length."""
    with EmbeddedPubSub() as embedded:
        admin, client = Admin(embedded.address), Ours(embedded.address)
        yield Subject(Server(embedded.address, EMBEDDED, admin, embedded), client), embedded
        await client.close()
        admin.close()


def expect_failure(request: pytest.FixtureRequest, *, unless: bool, reason: str, always: bool = True) -> None:
    if not unless:
        request.applymarker(pytest.mark.xfail(strict=always, reason=reason))


def data_of(deliveries: Sequence[Delivery]) -> list[str]:
    return sorted(delivery.data.decode() for delivery in deliveries)


# ---------------------------------------------------------------------------- delivering and settling


async def test_a_message_arrives_as_it_was_published(subject: Subject) -> None:
    subject.create()
    before = datetime.now(UTC)

    message_id = await subject.publish("Pflänzchen", tenant="grünes Haus", empty="")
    [delivery] = await subject.take(1)

    assert delivery.message_id == message_id
    assert delivery.data.decode() == "Pflänzchen"
    assert delivery.attributes == {"tenant": "grünes Haus", "empty": ""}
    assert before - timedelta(seconds=1) < delivery.publish_time < datetime.now(UTC) + timedelta(seconds=1)
    assert delivery.delivery_attempt is None


async def test_attributes_alone_are_a_message(subject: Subject) -> None:
    subject.create()

    await subject.publish("", kind="notification")

    [delivery] = await subject.take(1)
    assert delivery.data == b""


async def test_nine_megabytes_arrive(subject: Subject) -> None:
    subject.create()

    await subject.publish("x" * 9_000_000)

    [delivery] = await subject.take(1)
    assert len(delivery.data) == 9_000_000


async def test_a_pull_brings_no_more_than_was_asked_for(subject: Subject) -> None:
    subject.create()
    for data in "abc":
        await subject.publish(data)

    assert len(await subject.client.pull(subject.subscription, 2)) <= 2


async def test_a_pull_waits_for_the_message(subject: Subject) -> None:
    subject.create()
    pull = asyncio.create_task(subject.take(1))

    await subject.publish("late")

    assert data_of(await pull) == ["late"]


async def test_an_acked_message_is_gone_and_the_others_are_not(subject: Subject) -> None:
    subject.create()
    for data in "abc":
        await subject.publish(data)
    taken = {delivery.data.decode(): delivery for delivery in await subject.take(3)}

    await subject.ack(taken["a"], taken["c"])
    await subject.nack(taken["b"])
    await subject.publish("d")

    assert data_of(await subject.take(2)) == ["b", "d"]


async def test_a_nacked_message_comes_again_under_another_lease(subject: Subject) -> None:
    subject.create(ack_deadline_seconds=600)
    message_id = await subject.publish("a")
    [first] = await subject.take(1)

    await subject.nack(first)

    [second] = await subject.take(1)
    assert second.message_id == message_id
    assert second.ack_id != first.ack_id


async def test_a_lease_ends_at_the_deadline_that_was_set(subject: Subject) -> None:
    subject.create(ack_deadline_seconds=600)
    await subject.publish("a")
    [first] = await subject.take(1)
    start = time.monotonic()

    await subject.extend(1, first)

    await subject.take(1)
    assert 0.9 < time.monotonic() - start < 8


async def test_a_late_ack_does_not_stop_the_redelivery(subject: Subject) -> None:
    subject.create()
    await subject.publish("a")
    [delivery] = await subject.take(1)
    await subject.nack(delivery)

    await subject.ack(delivery)

    assert data_of(await subject.take(1)) == ["a"]


async def test_an_ack_is_done_again_without_complaint(subject: Subject) -> None:
    subject.create()
    await subject.publish("a")
    [delivery] = await subject.take(1)

    await subject.ack(delivery)
    await subject.ack(delivery)


async def test_every_subscription_has_its_own_copy(subject: Subject) -> None:
    subject.create()
    other = f"{subject.subscription}-other"
    subject.server.admin.subscriptions.create_subscription(request={"name": other, "topic": subject.topic})

    await subject.publish("a")
    await subject.ack(*await subject.take(1))

    assert data_of(await subject.take(1, other)) == ["a"]


async def test_what_does_not_exist_is_said(subject: Subject) -> None:
    with pytest.raises(subject.client.missing):
        await subject.client.pull(subject.subscription, 1)
    with pytest.raises(subject.client.missing):
        await subject.client.acknowledge(subject.subscription, ["x"])
    with pytest.raises(subject.client.missing):
        await subject.publish("a")


async def test_a_subscription_that_is_deleted_ends_its_pulls(subject: Subject) -> None:
    subject.create()
    pull = asyncio.create_task(subject.take(1))
    embedded = subject.server.embedded
    while embedded and not embedded.waiting(subject.subscription):  # noqa: ASYNC110 (it is on another thread)
        await asyncio.sleep(0.005)

    subject.server.admin.subscriptions.delete_subscription(subscription=subject.subscription)

    with pytest.raises(subject.client.missing):
        await pull


# ---------------------------------------------------------------------------- policies


async def test_attempts_are_counted_and_the_last_one_forwards_the_message(subject: Subject) -> None:
    subject.create(
        dead_letter_policy={"dead_letter_topic": subject.dead_topic, "max_delivery_attempts": 5},
    )
    message_id = await subject.publish("poison", tenant="x")
    attempts = []
    for _ in range(5):
        [delivery] = await subject.take(1)
        attempts.append(delivery.delivery_attempt)
        await subject.nack(delivery)

    # The emulator forwards only when somebody pulls from the subscription again.
    pull = asyncio.create_task(subject.client.pull(subject.subscription, 1))
    [dead] = await subject.take(1, subject.dead_subscription)
    pull.cancel()

    assert attempts == [1, 2, 3, 4, 5]
    assert dead.data == b"poison"
    assert dead.message_id != message_id
    published = dead.attributes["CloudPubSubDeadLetterSourceTopicPublishTime"]
    assert abs(datetime.fromisoformat(published) - datetime.now(UTC)) < timedelta(minutes=1)
    assert dead.attributes == {
        "tenant": "x",
        "CloudPubSubDeadLetterSourceDeliveryCount": "5",
        "CloudPubSubDeadLetterSourceSubscription": subject.name,
        "CloudPubSubDeadLetterSourceSubscriptionProject": PROJECT,
        "CloudPubSubDeadLetterSourceTopicPublishTime": published,
    }


async def test_a_nacked_message_rests_as_the_retry_policy_says(
    request: pytest.FixtureRequest, googles: Subject
) -> None:
    expect_failure(
        request,
        unless=googles.server.features.rests_from_the_first_nack,
        reason="the emulator redelivers at once the first time",
    )
    second = duration_pb2.Duration(seconds=1)
    googles.create(retry_policy={"minimum_backoff": second, "maximum_backoff": second})
    await googles.publish("a")
    [delivery] = await googles.take(1)
    start = time.monotonic()

    await googles.nack(delivery)

    await googles.take(1)
    assert time.monotonic() - start > 0.9


async def test_exactly_once_refuses_a_lease_that_is_over(subject: Subject) -> None:
    subject.create(enable_exactly_once_delivery=True)
    await subject.publish("a")
    [first] = await subject.take(1)
    await subject.nack(first)
    [second] = await subject.take(1)

    with pytest.raises(subject.client.refused):
        await subject.ack(first)
    with pytest.raises(subject.client.refused):
        await subject.extend(60, first)
    await subject.ack(second)


async def test_an_id_that_was_never_given_out_is_refused(subject: Subject) -> None:
    subject.create()

    with pytest.raises(subject.client.refused):
        await subject.client.acknowledge(subject.subscription, ["garbage"])


async def take_in_order(subject: Subject, count: int) -> list[str]:
    """One after the other, each acked before the next is pulled."""
    arrived: list[str] = []
    while len(arrived) < count:
        taken = await subject.take(1)
        arrived += [delivery.data.decode() for delivery in taken]
        await subject.ack(*taken)
    return arrived


async def test_messages_of_one_ordering_key_come_in_the_order_of_publishing(subject: Subject) -> None:
    subject.create(enable_message_ordering=True)
    for data in ("a0", "b0", "a1", "b1", "a2"):
        subject.server.admin.publish(subject.topic, data=data.encode(), ordering_key=data[0])

    arrived = await take_in_order(subject, 5)

    assert [data for data in arrived if data.startswith("a")] == ["a0", "a1", "a2"]
    assert [data for data in arrived if data.startswith("b")] == ["b0", "b1"]


async def test_a_nacked_message_comes_before_the_next_of_its_ordering_key(
    request: pytest.FixtureRequest, subject: Subject
) -> None:
    expect_failure(
        request,
        unless=subject.server.features.orders_redeliveries,
        reason="the emulator delivers the next message before the nacked one",
    )
    subject.create(enable_message_ordering=True)
    for data in (b"a0", b"a1", b"a2"):
        subject.server.admin.publish(subject.topic, data=data, ordering_key="a")
    await subject.nack(*await subject.take(1))

    assert await take_in_order(subject, 3) == ["a0", "a1", "a2"]


async def test_a_filter_keeps_messages_away(request: pytest.FixtureRequest, googles: Subject) -> None:
    expect_failure(request, unless=googles.server.features.filters, reason="neither server has filters")
    googles.create(filter='attributes.kind = "photo"')

    await googles.publish("other", kind="text")
    await googles.publish("wanted", kind="photo")

    assert data_of(await googles.take(1)) == ["wanted"]


# ---------------------------------------------------------------------------- limits and names


@pytest.mark.parametrize(
    "message",
    [
        {"data": b"x" * 10_000_001},
        {"data": b"x", "attributes": {str(i): "" for i in range(101)}},
        {"data": b"x", "attributes": {"ü" * 129: ""}},
        {"data": b"x", "attributes": {"k": "ü" * 513}},
        {"data": b"x", "attributes": {"": ""}},
        {"data": b"x", "attributes": {"goog-reserved": ""}},
    ],
    ids=["bytes", "attributes", "key", "value", "no key", "reserved key"],
)
async def test_a_message_over_a_limit_is_refused(
    request: pytest.FixtureRequest, googles: Subject, message: dict[str, Any]
) -> None:
    expect_failure(
        request, unless=googles.server.features.enforces_limits, reason="the emulator has no limits"
    )
    googles.create()

    with pytest.raises(google_errors.InvalidArgument):
        googles.server.admin.publish(googles.topic, **message)


async def test_an_empty_message_is_refused(googles: Subject) -> None:
    googles.create()

    with pytest.raises(google_errors.InvalidArgument):
        googles.server.admin.publish(googles.topic)


async def test_names_are_taken_once_and_checked(googles: Subject) -> None:
    googles.create()
    admin = googles.server.admin

    with pytest.raises(google_errors.AlreadyExists):
        admin.topics.create_topic(name=googles.topic)
    with pytest.raises(google_errors.AlreadyExists):
        admin.subscriptions.create_subscription(
            request={"name": googles.subscription, "topic": googles.topic}
        )
    with pytest.raises(google_errors.NotFound):
        admin.subscriptions.create_subscription(
            request={"name": f"{googles.subscription}-2", "topic": f"{googles.topic}-2"}
        )
    with pytest.raises(google_errors.InvalidArgument):
        admin.topics.create_topic(name=f"projects/{PROJECT}/topics/x")


async def test_policies_out_of_bounds_are_refused(googles: Subject) -> None:
    for policy in (
        {"dead_letter_policy": {"dead_letter_topic": googles.topic, "max_delivery_attempts": 4}},
        {"retry_policy": {"minimum_backoff": duration_pb2.Duration(seconds=601)}},
    ):
        with pytest.raises(google_errors.ClientError):
            googles.create(**policy)
        googles = Subject(googles.server, googles.client)


async def test_a_deadline_out_of_bounds_is_refused(request: pytest.FixtureRequest, googles: Subject) -> None:
    expect_failure(
        request,
        unless=googles.server.features.checks_ack_deadlines,
        reason="the emulator takes deadlines under 10 s",
    )
    with pytest.raises(google_errors.InvalidArgument):
        googles.create(ack_deadline_seconds=5)


async def test_what_was_created_is_found_changed_and_deleted(googles: Subject) -> None:
    googles.create(ack_deadline_seconds=20, labels={"team": "beds"})
    admin = googles.server.admin
    project = f"projects/{PROJECT}"

    assert googles.topic in {topic.name for topic in admin.topics.list_topics(project=project)}
    assert admin.topics.get_topic(topic=googles.topic).name == googles.topic
    listed = admin.subscriptions.list_subscriptions(project=project)
    assert googles.subscription in {subscription.name for subscription in listed}
    found = admin.subscriptions.get_subscription(subscription=googles.subscription)
    assert (found.ack_deadline_seconds, dict(found.labels)) == (20, {"team": "beds"})
    assert found.message_retention_duration == timedelta(days=7)

    admin.subscriptions.update_subscription(
        subscription={"name": googles.subscription, "ack_deadline_seconds": 60},
        update_mask=field_mask_pb2.FieldMask(paths=["ack_deadline_seconds"]),
    )
    admin.topics.delete_topic(topic=googles.topic)
    found = admin.subscriptions.get_subscription(subscription=googles.subscription)
    assert (found.ack_deadline_seconds, dict(found.labels)) == (60, {"team": "beds"})
    assert found.topic == "_deleted-topic_"
    admin.subscriptions.delete_subscription(subscription=googles.subscription)
    with pytest.raises(google_errors.NotFound):
        admin.subscriptions.get_subscription(subscription=googles.subscription)


# ---------------------------------------------------------------------------- leases of the usual length


async def test_a_lease_of_the_subscriptions_deadline_ends_with_it(
    ours_embedded: tuple[Subject, EmbeddedPubSub],
) -> None:
    subject, embedded = ours_embedded
    subject.create(ack_deadline_seconds=10)
    await subject.publish("a")
    [first] = await subject.take(1)

    embedded.advance(9.5)
    await subject.publish("b")
    assert data_of(await subject.take(1)) == ["b"]
    embedded.advance(0.5)

    [again] = await subject.take(1)
    assert again.message_id == first.message_id


async def test_extensions_keep_a_message_for_longer_than_any_deadline(
    ours_embedded: tuple[Subject, EmbeddedPubSub],
) -> None:
    subject, embedded = ours_embedded
    subject.create(ack_deadline_seconds=10)
    await subject.publish("a")
    [held] = await subject.take(1)
    await subject.extend(120, held)

    for _ in range(40):
        embedded.advance(30)
        await subject.extend(120, held)
    await subject.publish("b")

    assert data_of(await subject.take(1)) == ["b"]
    assert embedded.leased(subject.subscription) == 2


async def test_rests_grow_with_every_failure(ours_embedded: tuple[Subject, EmbeddedPubSub]) -> None:
    subject, embedded = ours_embedded
    backoff = {"minimum_backoff": timedelta(seconds=30), "maximum_backoff": timedelta(seconds=100)}
    subject.create(retry_policy=backoff)
    await subject.publish("a")
    for rest in (30, 60, 100, 100):
        [delivery] = await subject.take(1)
        await subject.nack(delivery)

        embedded.advance(rest - 1)
        assert embedded.leased(subject.subscription) == 0
        embedded.advance(1)


# ---------------------------------------------------------------------------- streaming, by Google's client


@contextmanager
def streaming(subject: Subject, **flow: Any) -> Iterator[tuple[queue.Queue[Message], Any]]:
    """Google's streaming subscriber: its messages, and its future."""
    arrived: queue.Queue[Message] = queue.Queue()
    assert isinstance(subject.client, Googles)
    future = subject.client.subscriber.subscribe(
        subject.subscription, callback=arrived.put, flow_control=FlowControl(**flow)
    )
    try:
        yield arrived, future
    finally:
        future.cancel()
        if not future.done() or not future.exception():
            future.result(timeout=20)


async def test_a_stream_brings_messages_and_takes_acks_and_nacks(googles: Subject) -> None:
    googles.create()
    for data in "abc":
        await googles.publish(data)

    with streaming(googles) as (arrived, _):
        messages = {m.data: m for m in [await asyncio.to_thread(arrived.get, timeout=20) for _ in range(3)]}
        messages[b"a"].ack()
        messages[b"c"].ack()
        messages[b"b"].nack()
        again = await asyncio.to_thread(arrived.get, timeout=20)
        again.ack()

    assert sorted(messages) == [b"a", b"b", b"c"]
    assert again.data == b"b"


async def test_a_stream_leaves_to_others_what_its_client_cannot_take(
    request: pytest.FixtureRequest, googles: Subject
) -> None:
    expect_failure(
        request,
        unless=googles.server.features.honours_max_outstanding,
        reason="the emulator sends a stream whatever there is",
        always=False,
    )
    googles.create()
    with streaming(googles, max_messages=2) as (arrived, _):
        for data in "abcdef":
            await googles.publish(data)
        held = [await asyncio.to_thread(arrived.get, timeout=20) for _ in range(2)]

        try:
            async with asyncio.timeout(5):
                others = await googles.take(4)
        finally:
            for message in held:
                message.ack()

    assert len(others) == 4


async def test_a_stream_of_an_exactly_once_subscription_confirms_acks(googles: Subject) -> None:
    googles.create(enable_exactly_once_delivery=True, ack_deadline_seconds=60)
    await googles.publish("a")

    with streaming(googles) as (arrived, _):
        message = await asyncio.to_thread(arrived.get, timeout=20)
        confirmed = await asyncio.to_thread(message.ack_with_response().result, 20)

    assert confirmed == AcknowledgeStatus.SUCCESS


async def test_a_stream_ends_when_its_subscription_is_deleted(googles: Subject) -> None:
    googles.create()
    await googles.publish("a")
    with streaming(googles) as (arrived, future):
        (await asyncio.to_thread(arrived.get, timeout=20)).ack()

        googles.server.admin.subscriptions.delete_subscription(subscription=googles.subscription)

        with pytest.raises(google_errors.NotFound):
            await asyncio.to_thread(future.result, 20)


async def test_a_stream_takes_acks_and_deadlines_itself(googles: Subject) -> None:
    googles.create(ack_deadline_seconds=60)
    for data in "ab":
        await googles.publish(data)
    requests: queue.Queue[StreamingPullRequest | None] = queue.Queue()
    requests.put(StreamingPullRequest(subscription=googles.subscription, stream_ack_deadline_seconds=60))

    def stream() -> list[bytes]:
        responses = googles.server.admin.subscriptions.streaming_pull(requests=iter(requests.get, None))
        order: list[bytes] = []
        for response in responses:
            for received in response.received_messages:
                order.append(received.message.data)
                if order.count(received.message.data) == 1 and received.message.data == b"b":
                    nack = {"modify_deadline_ack_ids": [received.ack_id], "modify_deadline_seconds": [0]}
                    requests.put(StreamingPullRequest(**nack))
                else:
                    requests.put(StreamingPullRequest(ack_ids=[received.ack_id]))
            if len(order) >= 3:
                requests.put(None)
                return order
        return order

    order = await asyncio.to_thread(stream)

    assert sorted(order) == [b"a", b"b", b"b"]
