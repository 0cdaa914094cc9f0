"""The embedded broker's state machine, at any moment a test likes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from consumer.local.pubsub.messages import (
    AlreadyExists,
    DeadLetterPolicy,
    Holder,
    Invalid,
    NotFound,
    RetryPolicy,
    StaleAckIds,
    SubscriptionConfig,
)
from consumer.local.pubsub.subscriptions import Subscription
from consumer.local.pubsub.topics import Broker, Draft

TOPIC = "projects/p/topics/photos"
DEAD = "projects/p/topics/dead"
SUBSCRIPTION = "projects/p/subscriptions/photos"
DEAD_SUBSCRIPTION = "projects/p/subscriptions/dead"


class World:
    """A broker with one subscription, and a clock in the hand."""

    def __init__(self, **fields: Any) -> None:
        self.time = 1000.0
        self.broker = Broker(lambda: self.time, wall=lambda: datetime(2026, 1, 2, 3, 4, 5, 678901, UTC))
        for topic in (TOPIC, DEAD):
            self.broker.create_topic(topic)
        self.dead = self.broker.create_subscription(SubscriptionConfig(DEAD_SUBSCRIPTION, DEAD))
        self.photos = self.broker.create_subscription(SubscriptionConfig(SUBSCRIPTION, TOPIC, **fields))

    def publish(self, data: str, key: str = "", **attributes: str) -> str:
        return self.broker.publish(TOPIC, [Draft(data.encode(), attributes, key)])[0]

    def pull(self, most: int = 100, subscription: Subscription | None = None) -> list[str]:
        """The data of what is delivered; the ack ids are kept by data."""
        leased = (subscription or self.photos).pull(self.time, most)
        self.ack_ids = {one.message.data.decode(): one.ack_id for one in leased}
        self.attempts = [one.attempt for one in leased]
        return [one.message.data.decode() for one in leased]

    def ack(self, *data: str) -> None:
        self.photos.acknowledge(self.time, [self.ack_ids[one] for one in data])

    def nack(self, *data: str) -> None:
        self.photos.modify_deadline(self.time, [self.ack_ids[one] for one in data], 0)


def test_a_message_is_delivered_in_the_order_of_publishing_and_gone_after_its_ack() -> None:
    world = World()
    for data in "abc":
        world.publish(data)

    assert world.pull(2) == ["a", "b"]
    assert world.pull() == ["c"]
    world.ack("c")

    world.time += 10
    assert world.pull() == ["a", "b"]
    assert world.photos.backlog == 2


def test_a_leased_message_is_delivered_to_nobody_else_until_its_deadline() -> None:
    world = World(ack_deadline=30)
    world.publish("a")
    world.pull()

    world.time += 29.9
    assert world.pull() == []
    world.time += 0.1
    assert world.pull() == ["a"]


def test_a_new_deadline_counts_from_the_moment_it_is_set_and_may_shorten_the_lease() -> None:
    world = World(ack_deadline=60)
    world.publish("a")
    world.pull()

    world.time += 50
    world.photos.modify_deadline(world.time, list(world.ack_ids.values()), 120)
    world.time += 119
    assert world.pull() == []
    world.photos.modify_deadline(world.time, list(world.ack_ids.values()), 5)
    world.time += 5
    assert world.pull() == ["a"]


def test_a_nacked_message_is_there_again_at_once_without_retry_policy() -> None:
    world = World()
    world.publish("a")
    world.pull()

    world.nack("a")

    assert world.pull() == ["a"]


def test_rests_grow_for_each_message_alone_and_stop_at_the_maximum() -> None:
    world = World(retry=RetryPolicy(minimum=3, maximum=10))
    world.publish("a")
    rests = []
    for _ in range(4):
        assert world.pull() == ["a"]
        world.nack("a")
        start = world.time
        world.time = world.photos.next_event(world.time) or 0.0
        rests.append(world.time - start)

    assert rests == [3, 6, 10, 10]
    world.publish("b")
    world.pull()
    world.nack("b")
    assert world.photos.next_event(world.time) == world.time + 3


def test_an_expired_lease_rests_as_a_nacked_one() -> None:
    world = World(retry=RetryPolicy(minimum=20, maximum=600))
    world.publish("a")
    world.pull()

    world.time += 10
    assert world.pull() == []
    world.time += 19.9
    assert world.pull() == []
    world.time += 0.1
    assert world.pull() == ["a"]


def test_attempts_count_nacks_and_expiries_but_only_where_a_dead_letter_policy_exists() -> None:
    counted = World(dead_letter=DeadLetterPolicy(DEAD, 5))
    uncounted = World()
    seen: dict[str, list[int | None]] = {"counted": [], "uncounted": []}
    for name, world in (("counted", counted), ("uncounted", uncounted)):
        world.publish("a")
        for way in ("nack", "expire", "nack"):
            world.pull()
            seen[name] += world.attempts
            if way == "nack":
                world.nack("a")
            else:
                world.time += 10

    assert seen == {"counted": [1, 2, 3], "uncounted": [None, None, None]}


def test_the_last_attempt_forwards_the_message_with_its_origin_under_a_new_id() -> None:
    world = World(dead_letter=DeadLetterPolicy(DEAD, 5))
    first_id = world.publish("a", tenant="x")
    for _ in range(5):
        assert world.pull() == ["a"]
        world.nack("a")

    assert world.pull() == []
    [dead] = world.dead.pull(world.time, 10)
    assert dead.message.data == b"a"
    assert dead.message.id != first_id
    assert dead.message.attributes == {
        "tenant": "x",
        "CloudPubSubDeadLetterSourceDeliveryCount": "5",
        "CloudPubSubDeadLetterSourceSubscription": "photos",
        "CloudPubSubDeadLetterSourceSubscriptionProject": "p",
        "CloudPubSubDeadLetterSourceTopicPublishTime": "2026-01-02T03:04:05.678Z",
    }


def test_a_message_stays_when_its_dead_letter_topic_is_gone() -> None:
    world = World(dead_letter=DeadLetterPolicy(DEAD, 5))
    world.publish("a")
    world.broker.delete_topic(DEAD)

    for _ in range(8):
        assert world.pull() == ["a"]
        world.nack("a")

    assert world.attempts == [8]


def test_a_late_ack_does_nothing_because_the_message_is_on_its_way_again() -> None:
    world = World()
    world.publish("a")
    world.pull()
    world.time += 10

    world.ack("a")

    assert world.pull() == ["a"]


def test_exactly_once_names_the_stale_ids_and_acks_the_others() -> None:
    world = World(exactly_once=True)
    world.publish("a")
    world.pull()
    stale = world.ack_ids["a"]
    world.nack("a")
    world.publish("b")
    world.pull()

    with pytest.raises(StaleAckIds) as refused:
        world.photos.acknowledge(world.time, [stale, world.ack_ids["b"]])

    assert refused.value.ack_ids == {stale}
    assert world.photos.backlog == 1


def test_an_id_that_was_never_given_out_is_refused_before_anything_is_done() -> None:
    world = World()
    world.publish("a")
    world.pull()

    with pytest.raises(Invalid, match="garbage"):
        world.photos.acknowledge(world.time, [world.ack_ids["a"], "garbage"])

    assert world.photos.backlog == 1


def test_messages_of_one_ordering_key_come_one_after_the_other() -> None:
    world = World(ordered=True)
    for data, key in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("free", "")]:
        world.publish(data, key=key)

    assert world.pull() == ["a1", "b1", "free"]
    world.nack("a1")
    assert world.pull() == ["a1"]
    world.ack("a1")
    assert world.pull() == ["a2"]
    assert world.photos.backlog == 3


def test_a_dead_lettered_message_lets_the_next_of_its_key_pass() -> None:
    world = World(ordered=True, dead_letter=DeadLetterPolicy(DEAD, 5))
    world.publish("poison", key="k")
    world.publish("good", key="k")
    for _ in range(5):
        world.pull()
        world.nack("poison")

    assert world.pull() == ["good"]


def test_a_holder_has_room_again_when_its_lease_ends_in_whatever_way() -> None:
    world = World()
    holder = Holder()
    for data in ("a", "bb", "ccc"):
        world.publish(data)
    leased = world.photos.pull(world.time, 10, lease_seconds=20, holder=holder)
    assert (holder.messages, holder.bytes) == (3, 6)

    world.photos.acknowledge(world.time, [leased[0].ack_id])
    world.photos.modify_deadline(world.time, [leased[1].ack_id], 0)
    assert (holder.messages, holder.bytes) == (1, 3)
    world.time += 20
    world.photos.expire(world.time)
    assert (holder.messages, holder.bytes) == (0, 0)


def test_bytes_are_limited_but_one_large_message_passes_alone() -> None:
    world = World()
    for data in ("x" * 50, "y" * 5, "z" * 5):
        world.publish(data)

    assert [len(one.message.data) for one in world.photos.pull(world.time, 10, max_bytes=10)] == [50]
    assert [len(one.message.data) for one in world.photos.pull(world.time, 10, max_bytes=10)] == [5, 5]


def test_every_subscription_of_a_topic_gets_what_is_published_after_it_was_created() -> None:
    world = World()
    world.publish("early")
    late = world.broker.create_subscription(SubscriptionConfig("projects/p/subscriptions/late", TOPIC))
    world.publish("both")

    assert world.pull() == ["early", "both"]
    assert world.pull(subscription=late) == ["both"]


def test_a_subscription_outlives_its_topic_and_a_new_topic_of_the_name_is_another() -> None:
    world = World()
    world.publish("a")
    world.broker.delete_topic(TOPIC)
    world.broker.create_topic(TOPIC)
    world.publish("b")

    assert world.pull() == ["a"]
    assert world.photos.config.topic == "_deleted-topic_"


def test_names_that_exist_or_do_not_are_told_apart() -> None:
    world = World()

    with pytest.raises(AlreadyExists):
        world.broker.create_topic(TOPIC)
    with pytest.raises(AlreadyExists):
        world.broker.create_subscription(SubscriptionConfig(SUBSCRIPTION, TOPIC))
    with pytest.raises(NotFound):
        world.broker.create_subscription(SubscriptionConfig(f"{SUBSCRIPTION}2", f"{TOPIC}2"))
    with pytest.raises(NotFound):
        world.broker.publish(f"{TOPIC}2", [Draft(b"x", {})])
    world.broker.delete_subscription(SUBSCRIPTION)
    with pytest.raises(NotFound):
        world.broker.subscription(SUBSCRIPTION)


@pytest.mark.parametrize(
    "create",
    [
        lambda: SubscriptionConfig(SUBSCRIPTION, TOPIC, ack_deadline=9),
        lambda: SubscriptionConfig(SUBSCRIPTION, TOPIC, ack_deadline=601),
        lambda: RetryPolicy(-1, 5),
        lambda: RetryPolicy(10, 5),
        lambda: RetryPolicy(10, 601),
        lambda: DeadLetterPolicy(DEAD, 4),
        lambda: DeadLetterPolicy(DEAD, 101),
    ],
)
def test_a_subscription_out_of_the_services_bounds_is_refused(create: Callable[[], Any]) -> None:
    with pytest.raises(Invalid):
        create()


@pytest.mark.parametrize(
    "name", ["photos", "projects/p/topics/x", "projects/p/topics/goog-x", "projects//topics/abc"]
)
def test_a_name_the_service_would_not_take_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="name"):
        World().broker.create_topic(name)


@pytest.mark.parametrize(
    "draft",
    [
        Draft(b"", {}),
        Draft(b"x" * 10_000_001, {}),
        Draft(b"x", {str(i): "" for i in range(101)}),
        Draft(b"x", {"ü" * 129: ""}),
        Draft(b"x", {"": "v"}),
        Draft(b"x", {"k": "ü" * 513}),
        Draft(b"x", {"google": "v"}),
    ],
    ids=["empty", "bytes", "attributes", "key", "no key", "value", "reserved"],
)
def test_a_message_over_a_limit_is_refused_with_all_that_came_with_it(draft: Draft) -> None:
    world = World()

    with pytest.raises(Invalid):
        world.broker.publish(TOPIC, [Draft(b"good", {}), draft])

    assert world.photos.backlog == 0


def test_a_message_at_every_limit_is_taken() -> None:
    attributes = {"ü" * 128: "ü" * 512, **{str(i): "" for i in range(99)}}

    World().broker.publish(TOPIC, [Draft(b"", attributes), Draft(b"x" * 10_000_000, {})])


def test_the_ends_of_leases_long_over_are_forgotten() -> None:
    world = World()
    for turn in range(5000):
        world.publish(str(turn))
        world.pull()
        world.ack(str(turn))

    assert len(world.photos._deadlines) < 2000


@settings(max_examples=60, stateful_step_count=60, deadline=None)
class Deliveries(RuleBasedStateMachine):
    """Whatever clients do and however time passes: no message is lost, none is with two holders at once."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.world = World(
            retry=RetryPolicy(minimum=1, maximum=8), dead_letter=DeadLetterPolicy(DEAD, 5), ordered=True
        )
        self.published: set[str] = set()
        self.acked: set[str] = set()
        self.failures: dict[str, int] = {}
        # By ack id: whose message it is, and when the lease ends.
        self.held: dict[str, tuple[str, float]] = {}

    @rule(key=st.sampled_from(["", "", "k1", "k2"]))
    def publish(self, key: str) -> None:
        self.published.add(self.world.publish("x", key=key))

    @rule(target=leases, most=st.integers(1, 4))
    def pull(self, most: int) -> Any:
        self._forget_expired()
        leased = self.world.photos.pull(self.world.time, most)
        for one in leased:
            holders = [ack_id for ack_id, (message, _) in self.held.items() if message == one.message.id]
            assert not holders, "delivered while leased"
            assert one.message.id not in self.acked, "delivered after its ack"
            assert one.attempt == self.failures.get(one.message.id, 0) + 1
            self.held[one.ack_id] = (one.message.id, self.world.time + 10)
        return multiple(*(one.ack_id for one in leased))

    @rule(ack_id=leases)
    def ack(self, ack_id: str) -> None:
        self._forget_expired()
        self.world.photos.acknowledge(self.world.time, [ack_id])
        if ack_id in self.held:
            self.acked.add(self.held.pop(ack_id)[0])

    @rule(ack_id=leases)
    def nack(self, ack_id: str) -> None:
        self._forget_expired()
        self.world.photos.modify_deadline(self.world.time, [ack_id], 0)
        if ack_id in self.held:
            self._failed(self.held.pop(ack_id)[0])

    @rule(ack_id=leases, seconds=st.sampled_from([1, 10, 60, 600]))
    def extend(self, ack_id: str, seconds: int) -> None:
        self._forget_expired()
        self.world.photos.modify_deadline(self.world.time, [ack_id], seconds)
        if ack_id in self.held:
            self.held[ack_id] = (self.held[ack_id][0], self.world.time + seconds)

    @rule(seconds=st.sampled_from([0.5, 3.0, 9.5, 30.0, 700.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.time += seconds

    @invariant()
    def nothing_is_lost(self) -> None:
        self._forget_expired()
        self.world.photos.expire(self.world.time)
        dead = {message for message, failures in self.failures.items() if failures >= 5}
        assert self.world.photos.backlog == len(self.published - self.acked - dead)
        assert self.world.dead.backlog == len(dead)
        assert self.world.photos.leased == len(self.held)

    def teardown(self) -> None:
        """Everything that is left can still be had."""
        self._forget_expired()
        dead = {message for message, failures in self.failures.items() if failures >= 5}
        left = self.published - self.acked - dead
        got = {message for message, _ in self.held.values()}
        self.world.photos.acknowledge(self.world.time, list(self.held))
        for _ in range(len(self.published) + 1):
            self.world.time += 8
            leased = self.world.photos.pull(self.world.time, 1000)
            got |= {one.message.id for one in leased}
            self.world.photos.acknowledge(self.world.time, [one.ack_id for one in leased])
        assert got == left

    def _forget_expired(self) -> None:
        for ack_id, (message, end) in list(self.held.items()):
            if end <= self.world.time:
                del self.held[ack_id]
                self._failed(message)

    def _failed(self, message: str) -> None:
        self.failures[message] = self.failures.get(message, 0) + 1


TestDeliveries = Deliveries.TestCase
