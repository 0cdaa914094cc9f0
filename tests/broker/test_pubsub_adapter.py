"""The adapter over real gRPC: what each failure becomes, what is tried again, and that nothing hangs."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import google.auth.exceptions
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.auth.credentials import Credentials
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from consumer.broker import BrokerMisconfigured, BrokerUnavailable, Delivery, LeaseLost, MessageTooLarge
from consumer.broker.publisher import PubSubPublisher
from consumer.broker.pubsub import Endpoint
from consumer.broker.rpc import RetryBudget, RpcFailed
from consumer.broker.subscriber import PubSubSubscriber
from consumer.local.pubsub import EmbeddedPubSub
from consumer.local.pubsub.topics import Draft

pytestmark = pytest.mark.anyio

BRIEF = RetryBudget(total=1.0, per_call=0.3, first_pause=0.01, longest_pause=0.1)
EXACTLY_ONCE = "projects/p/subscriptions/exactly-once"

OUTAGES = [
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
]
MISTAKES = [
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
]


@pytest.fixture
async def subscriber(endpoint: Endpoint, subscription: str) -> AsyncIterator[PubSubSubscriber]:
    subscriber = PubSubSubscriber(subscription, endpoint, pull_timeout=5, budget=BRIEF)
    yield subscriber
    await subscriber.close()


@pytest.fixture
async def exactly_once(
    server: EmbeddedPubSub, endpoint: Endpoint, topic: str
) -> AsyncIterator[PubSubSubscriber]:
    server.create_subscription(EXACTLY_ONCE, topic, enable_exactly_once_delivery=True)
    subscriber = PubSubSubscriber(EXACTLY_ONCE, endpoint, pull_timeout=5, budget=BRIEF)
    yield subscriber
    await subscriber.close()


@pytest.fixture
async def publisher(endpoint: Endpoint) -> AsyncIterator[PubSubPublisher]:
    publisher = PubSubPublisher("p", endpoint, budget=BRIEF)
    yield publisher
    await publisher.close()


async def leased(server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str, count: int) -> list[str]:
    """So many messages, published and pulled."""
    drafts = [Draft(b"photo", {}) for _ in range(count)]
    for start in range(0, count, 1000):
        server.run(lambda broker, start=start: broker.publish(topic, drafts[start : start + 1000]))
    deliveries: list[Delivery] = []
    while len(deliveries) < count:
        deliveries += await subscriber.pull(count - len(deliveries))
    return [delivery.ack_id for delivery in deliveries]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something to happen on the server, for at most 20 s."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 (the server is on another thread)
            await asyncio.sleep(0.005)


class TestPull:
    async def test_brings_bytes_attributes_and_times(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str
    ) -> None:
        before = datetime.now(UTC)
        message_id = server.publish(topic, b"\x00photo", tenant="grünes Haus")

        [delivery] = await subscriber.pull(10)

        assert (delivery.message_id, delivery.data) == (message_id, b"\x00photo")
        assert delivery.attributes == {"tenant": "grünes Haus"}
        assert before - timedelta(milliseconds=1) <= delivery.publish_time <= datetime.now(UTC)
        assert delivery.delivery_attempt is None

    async def test_waits_for_a_message(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str
    ) -> None:
        pull = asyncio.create_task(subscriber.pull(1))
        await until(lambda: bool(server.calls("Pull")))

        server.publish(topic, b"photo")

        assert len(await pull) == 1

    async def test_brings_a_message_larger_than_grpcs_own_limit(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, publisher: PubSubPublisher, topic: str
    ) -> None:
        await publisher.publish(topic, b"x" * 9_900_000, {})

        [delivery] = await subscriber.pull(1)

        assert len(delivery.data) == 9_900_000

    async def test_with_nothing_there_is_no_error(self, endpoint: Endpoint, subscription: str) -> None:
        subscriber = PubSubSubscriber(subscription, endpoint, pull_timeout=0.1)

        assert not await subscriber.pull(1)

        await subscriber.close()

    async def test_that_is_never_answered_is_no_error_either(
        self, server: EmbeddedPubSub, endpoint: Endpoint, subscription: str
    ) -> None:
        server.fail("Pull", delay=math.inf)
        subscriber = PubSubSubscriber(subscription, endpoint, pull_timeout=0.1)

        assert not await subscriber.pull(1)

        await subscriber.close()

    async def test_that_waits_ends_empty_when_the_subscriber_is_closed(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber
    ) -> None:
        pull = asyncio.create_task(subscriber.pull(1))
        await until(lambda: bool(server.calls("Pull")))

        await subscriber.close()

        assert not await pull
        assert not await subscriber.pull(1)

    async def test_that_is_cancelled_waits_on_the_server_no_longer(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str, subscription: str
    ) -> None:
        pull = asyncio.create_task(subscriber.pull(1))
        await until(lambda: server.waiting(subscription) == 1)
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        await until(lambda: server.waiting(subscription) == 0)

        server.publish(topic, b"photo")

        assert len(await subscriber.pull(1)) == 1

    async def test_hands_back_what_arrives_when_nobody_waits_any_more(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str, subscription: str
    ) -> None:
        server.publish(topic, b"photo")
        pull = asyncio.create_task(subscriber.pull(1))
        await asyncio.sleep(0)
        end = time.monotonic() + 10
        while not server.leased(subscription) and time.monotonic() < end:
            time.sleep(0.05)  # noqa: ASYNC251 (the answer arrives while the loop is not looking)
        time.sleep(0.1)  # noqa: ASYNC251

        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull

        await until(lambda: not server.leased(subscription))
        assert [call.seconds for call in server.calls("ModifyAckDeadline")] == [0]

    @pytest.mark.parametrize("status", OUTAGES, ids=lambda status: status.name)
    async def test_says_when_the_broker_is_unavailable(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, status: grpc.StatusCode
    ) -> None:
        server.fail("Pull", status, times=1)

        with pytest.raises(BrokerUnavailable, match=status.name):
            await subscriber.pull(1)

    @pytest.mark.parametrize("status", MISTAKES, ids=lambda status: status.name)
    async def test_says_when_an_operator_must_act(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, status: grpc.StatusCode
    ) -> None:
        server.fail("Pull", status, times=1)

        with pytest.raises(BrokerMisconfigured, match=status.name):
            await subscriber.pull(1)

    async def test_works_again_after_the_broker_was_away(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str
    ) -> None:
        port = int(server.address.rpartition(":")[2])
        assert await leased(server, subscriber, topic, 1)
        server.stop()
        with pytest.raises(BrokerUnavailable):
            await subscriber.pull(1)

        server.start(port)
        server.publish(topic, b"photo")

        start = time.monotonic()
        deliveries: Sequence[Delivery] = []
        while not deliveries:
            try:
                deliveries = await subscriber.pull(1)
            except BrokerUnavailable:
                await asyncio.sleep(0.05)
        assert time.monotonic() - start < 10


class TestAcknowledge:
    async def test_is_tried_again_until_it_is_confirmed(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str, subscription: str
    ) -> None:
        ack_ids = await leased(server, subscriber, topic, 1)
        server.fail("Acknowledge", grpc.StatusCode.UNAVAILABLE, times=2)

        await subscriber.acknowledge(ack_ids)

        assert server.backlog(subscription) == 0
        assert len(server.calls("Acknowledge")) == 3

    async def test_that_took_effect_unheard_succeeds_the_second_time(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str
    ) -> None:
        ack_ids = await leased(server, subscriber, topic, 1)
        server.fail("Acknowledge", grpc.StatusCode.UNAVAILABLE, times=1, applied=True)

        await subscriber.acknowledge(ack_ids)

    @pytest.mark.parametrize("fault", [{"status": grpc.StatusCode.UNAVAILABLE}, {"delay": math.inf}], ids=str)
    async def test_gives_up_in_time(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str, fault: dict[str, Any]
    ) -> None:
        ack_ids = await leased(server, subscriber, topic, 1)
        server.fail("Acknowledge", **fault)
        start = time.monotonic()

        with pytest.raises(BrokerUnavailable):
            await subscriber.acknowledge(ack_ids)

        assert time.monotonic() - start < 3

    async def test_that_is_not_allowed_is_not_tried_again(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str
    ) -> None:
        ack_ids = await leased(server, subscriber, topic, 1)
        server.fail("Acknowledge", grpc.StatusCode.PERMISSION_DENIED)

        with pytest.raises(BrokerMisconfigured):
            await subscriber.acknowledge(ack_ids)

        assert len(server.calls("Acknowledge")) == 1

    async def test_names_the_stale_ids_of_an_exactly_once_subscription(
        self, server: EmbeddedPubSub, exactly_once: PubSubSubscriber, topic: str
    ) -> None:
        stale, good = await leased(server, exactly_once, topic, 2)
        await exactly_once.modify_deadline([stale], 0)

        with pytest.raises(LeaseLost) as lost:
            await exactly_once.acknowledge([stale, good])

        assert lost.value.ack_ids == {stale}
        assert server.backlog(EXACTLY_ONCE) == 1
        assert len(server.calls("Acknowledge")) == 1, "a refusal is not tried again"

    async def test_of_an_id_nobody_gave_out_does_not_hinder_the_others(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str, subscription: str
    ) -> None:
        good = await leased(server, subscriber, topic, 2)

        with pytest.raises(LeaseLost) as lost:
            await subscriber.acknowledge([good[0], "garbage", good[1]])

        assert lost.value.ack_ids == {"garbage"}
        assert server.backlog(subscription) == 0

    async def test_and_new_deadlines_go_out_a_thousand_at_a_time(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str, subscription: str
    ) -> None:
        ack_ids = await leased(server, subscriber, topic, 2100)

        await subscriber.modify_deadline(ack_ids, 60)
        await subscriber.acknowledge(ack_ids)

        assert [call.ids for call in server.calls("ModifyAckDeadline")] == [1000, 1000, 100]
        assert sorted(call.ids for call in server.calls("Acknowledge")) == [100, 1000, 1000]
        assert server.backlog(subscription) == 0

    async def test_of_jobs_that_end_together_shares_a_call(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str
    ) -> None:
        ack_ids = await leased(server, subscriber, topic, 50)

        await asyncio.gather(*(subscriber.acknowledge([ack_id]) for ack_id in ack_ids))

        assert [call.ids for call in server.calls("Acknowledge")] == [50]

    async def test_whose_caller_was_cancelled_goes_out_with_the_others(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str, subscription: str
    ) -> None:
        ack_ids = await leased(server, subscriber, topic, 3)
        first, *others = [asyncio.create_task(subscriber.acknowledge([ack_id])) for ack_id in ack_ids]
        await asyncio.sleep(0)

        first.cancel()
        await asyncio.gather(*others)

        assert first.cancelled()
        assert server.backlog(subscription) == 0

    async def test_does_not_wait_for_another_one_that_hangs(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str, subscription: str
    ) -> None:
        hung, *others = await leased(server, subscriber, topic, 10)
        server.fail("Acknowledge", delay=math.inf, only=lambda request: hung in request.ack_ids)
        stuck = asyncio.create_task(subscriber.acknowledge([hung]))
        await until(lambda: bool(server.calls("Acknowledge")))

        for ack_id in others:
            await subscriber.acknowledge([ack_id])

        assert not stuck.done()
        assert server.backlog(subscription) == 1
        server.heal()
        await stuck

    async def test_of_nothing_is_nothing(self, server: EmbeddedPubSub, subscriber: PubSubSubscriber) -> None:
        await subscriber.acknowledge([])
        await subscriber.modify_deadline([], 0)

        assert server.rpcs == []

    async def test_under_way_fails_when_the_subscriber_is_closed(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str
    ) -> None:
        ack_ids = await leased(server, subscriber, topic, 1)
        server.fail("Acknowledge", delay=math.inf)
        ack = asyncio.create_task(subscriber.acknowledge(ack_ids))
        await until(lambda: bool(server.calls("Acknowledge")))

        await subscriber.close()

        with pytest.raises(BrokerUnavailable):
            await ack
        with pytest.raises(BrokerUnavailable):
            await subscriber.acknowledge(ack_ids)


class TestExtend:
    async def test_tells_of_success_and_of_a_lease_that_is_over(
        self, server: EmbeddedPubSub, exactly_once: PubSubSubscriber, topic: str
    ) -> None:
        stale, good = await leased(server, exactly_once, topic, 2)
        await exactly_once.modify_deadline([stale], 0)

        assert exactly_once.extend([good], 120, 5).result(10) is None
        error = exactly_once.extend([stale, good], 120, 5).exception(10)

        assert isinstance(error, LeaseLost)
        assert error.ack_ids == {stale}

    async def test_has_a_timeout_of_its_own(
        self, server: EmbeddedPubSub, subscriber: PubSubSubscriber, topic: str
    ) -> None:
        [ack_id] = await leased(server, subscriber, topic, 1)
        server.fail("ModifyAckDeadline", delay=math.inf)

        assert isinstance(subscriber.extend([ack_id], 120, 0.1).exception(10), BrokerUnavailable)

    async def test_after_the_end_is_a_failure_and_not_a_crash(self, subscriber: PubSubSubscriber) -> None:
        await subscriber.close()

        assert isinstance(subscriber.extend(["a"], 120, 1).exception(10), BrokerUnavailable)


def test_ids_the_broker_was_unsure_of_are_told_from_those_that_are_lost() -> None:
    failure = RpcFailed(
        grpc.StatusCode.INVALID_ARGUMENT,
        "",
        {"a": "PERMANENT_FAILURE_INVALID_ACK_ID", "b": "TRANSIENT_FAILURE_UNORDERED_ACK_ID"},
    )

    assert (failure.lost, failure.undecided) == ({"a"}, {"b"})
    assert isinstance(failure.as_broker_error("ack"), BrokerUnavailable)


class TestPublish:
    async def test_returns_the_brokers_id_and_expands_short_names(
        self, server: EmbeddedPubSub, publisher: PubSubPublisher, subscriber: PubSubSubscriber, topic: str
    ) -> None:
        ids = [await publisher.publish(name, b"x", {"k": "v"}) for name in ("photos", topic)]

        assert [delivery.message_id for delivery in await subscriber.pull(10)] == ids

    @pytest.mark.parametrize("status", OUTAGES, ids=lambda status: status.name)
    async def test_is_tried_again_during_an_outage(
        self, server: EmbeddedPubSub, publisher: PubSubPublisher, topic: str, status: grpc.StatusCode
    ) -> None:
        server.fail("Publish", status, times=2)

        assert await publisher.publish(topic, b"x", {})

    async def test_to_a_topic_that_does_not_exist_is_a_mistake(
        self, server: EmbeddedPubSub, publisher: PubSubPublisher
    ) -> None:
        with pytest.raises(BrokerMisconfigured, match="topics/nothing"):
            await publisher.publish("nothing", b"x", {})

        assert len(server.calls("Publish")) == 1

    async def test_never_hangs(self, server: EmbeddedPubSub, publisher: PubSubPublisher, topic: str) -> None:
        server.fail("Publish", delay=math.inf)
        start = time.monotonic()

        with pytest.raises(BrokerUnavailable, match="DEADLINE_EXCEEDED"):
            await publisher.publish(topic, b"x", {})

        assert time.monotonic() - start < 3

    async def test_never_hangs_when_nobody_listens(self) -> None:
        publisher = PubSubPublisher("p", Endpoint(emulator="127.0.0.1:1"), budget=BRIEF)
        start = time.monotonic()

        with pytest.raises(BrokerUnavailable):
            await publisher.publish("photos", b"x", {})

        assert time.monotonic() - start < 3
        await publisher.close()

    async def test_goes_over_a_new_connection_after_a_call_that_hung(
        self, server: EmbeddedPubSub, publisher: PubSubPublisher, topic: str
    ) -> None:
        server.fail("Publish", delay=math.inf, times=1)

        await publisher.publish(topic, b"x", {})

        first, second = server.calls("Publish")
        assert first.peer != second.peer

    async def test_leaves_the_calls_alone_that_are_under_way_on_the_old_connection(
        self, server: EmbeddedPubSub, endpoint: Endpoint, topic: str
    ) -> None:
        publisher = PubSubPublisher("p", endpoint, budget=RetryBudget(total=10, per_call=0.5))
        server.fail("Publish", delay=math.inf, only=lambda r: r.messages[0].data == b"hangs", times=1)
        server.fail("Publish", delay=0.4, only=lambda r: r.messages[0].data == b"slow")
        hangs = asyncio.create_task(publisher.publish(topic, b"hangs", {}))
        await asyncio.sleep(0.3)
        slow = asyncio.create_task(publisher.publish(topic, b"slow", {}))

        await asyncio.gather(hangs, slow)

        assert len(server.calls("Publish")) == 3
        await publisher.close()

    @pytest.mark.parametrize(
        ("data", "attributes"),
        [
            (b"x" * 10_000_000, {}),
            (b"x", {str(i): "" for i in range(101)}),
            (b"x", {"ü" * 129: ""}),
            (b"x", {"k": "ü" * 513}),
        ],
        ids=["bytes", "attributes", "key", "value"],
    )
    async def test_of_too_much_is_refused_before_it_is_sent(
        self,
        server: EmbeddedPubSub,
        publisher: PubSubPublisher,
        topic: str,
        data: bytes,
        attributes: dict[str, str],
    ) -> None:
        with pytest.raises(MessageTooLarge):
            await publisher.publish(topic, data, attributes)

        assert server.rpcs == []

    async def test_at_every_limit_is_taken(self, publisher: PubSubPublisher, topic: str) -> None:
        attributes = {"ü" * 128: "ü" * 512, **{f"key-{i}": "x" * 1024 for i in range(99)}}

        await publisher.publish(topic, b"x" * (9_999_900 - 104_000), attributes)


@dataclass(frozen=True)
class TlsEndpoint(Endpoint):
    """The path to the real service, with a certificate of our own."""

    certificate: bytes = b""

    def connect(self) -> grpc.Channel:
        ssl = grpc.ssl_channel_credentials(self.certificate)
        return SubscriberGrpcTransport.create_channel(
            self.host, credentials=self.credentials, ssl_credentials=ssl
        )


class Revoked(Credentials):
    """A service account whose key was deleted."""

    def refresh(self, request: Any) -> None:
        raise google.auth.exceptions.RefreshError("the token was revoked")


class Hanging(Credentials):
    """A metadata server that does not answer."""

    def refresh(self, request: Any) -> None:
        time.sleep(2)
        raise google.auth.exceptions.RefreshError("too late for anybody")


@pytest.fixture(scope="module")
def tls() -> Iterator[tuple[str, bytes]]:
    """A gRPC server behind TLS, where no call arrives: its address and certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(private, pem)]))
        server.start()
        yield f"localhost:{port}", pem
        server.stop(None).wait()


class TestCredentials:
    async def test_that_get_no_token_are_a_mistake_and_no_outage(self, tls: tuple[str, bytes]) -> None:
        endpoint = TlsEndpoint(host=tls[0], credentials=Revoked(), certificate=tls[1])
        publisher = PubSubPublisher("p", endpoint, budget=BRIEF)
        subscriber = PubSubSubscriber("projects/p/subscriptions/photos", endpoint)

        with pytest.raises(BrokerMisconfigured, match="the token was revoked"):
            await publisher.publish("photos", b"x", {})
        with pytest.raises(BrokerMisconfigured, match="the token was revoked"):
            await subscriber.pull(1)

        await publisher.close()
        await subscriber.close()

    async def test_that_hang_do_not_make_a_publish_hang(self, tls: tuple[str, bytes]) -> None:
        endpoint = TlsEndpoint(host=tls[0], credentials=Hanging(), certificate=tls[1])
        publisher = PubSubPublisher("p", endpoint, budget=BRIEF)
        start = time.monotonic()

        with pytest.raises(BrokerUnavailable):
            await publisher.publish("photos", b"x", {})

        assert time.monotonic() - start < 3
        await publisher.close()

    async def test_that_are_missing_are_a_mistake(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))

        with pytest.raises(BrokerMisconfigured, match="credentials"):
            PubSubSubscriber("projects/p/subscriptions/photos", Endpoint())
