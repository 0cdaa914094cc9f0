"""Who would get a replay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from google.pubsub_v1 import types
from google.pubsub_v1.services.publisher import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

from consumer.broker import BrokerUnavailable
from consumer.broker.pubsub import Endpoint
from consumer.broker.rpc import RetryBudget
from consumer.dead_letters.targets import NobodyListens, Target, Targets
from tests.conformance.broker_clients import Admin
from tests.dead_letters.postbox import DEAD, PROJECT, REQUESTS, WORK, PostBox

T = TypeVar("T")


def asked(address: str, question: Callable[[Targets], Awaitable[T]], project: str = PROJECT) -> T:
    async def whole() -> T:
        targets = Targets(project, Endpoint(emulator=address), RetryBudget(total=1, per_call=1))
        try:
            return await question(targets)
        finally:
            await targets.close()

    return asyncio.run(whole())


def found(post: PostBox, *names: str) -> Mapping[str, Target | NobodyListens]:
    return asked(post.broker.address, lambda targets: targets.find(names))


def test_a_replay_goes_to_the_topic_of_the_subscription_it_came_from(post: PostBox) -> None:
    assert found(post, WORK, WORK) == {WORK: Target(REQUESTS, WORK)}


def test_nobody_listens_where_the_topic_is_gone(post: PostBox) -> None:
    with grpc.insecure_channel(post.broker.address) as channel:
        PublisherClient(transport=PublisherGrpcTransport(channel=channel)).delete_topic(topic=REQUESTS)

    assert "was deleted" in str(found(post, WORK)[WORK])


@pytest.mark.parametrize(
    "name", ["projects/evil/subscriptions/work", "work", "", "projects/nursery/topics/x"]
)
def test_no_letter_leads_out_of_the_project(post: PostBox, name: str) -> None:
    before = len(post.broker.rpcs)

    assert "is not a subscription of project nursery" in str(found(post, name)[name])
    assert len(post.broker.rpcs) == before, "not even asked for"


def test_a_topic_that_is_named_must_have_listeners(post: PostBox) -> None:
    lonely = f"projects/{PROJECT}/topics/lonely"
    post.broker.create_topic(lonely)

    assert asked(post.broker.address, lambda targets: targets.of_topic(REQUESTS)) == Target(REQUESTS, WORK)
    with pytest.raises(NobodyListens, match="is lost"):
        asked(post.broker.address, lambda targets: targets.of_topic(lonely))
    with pytest.raises(NobodyListens, match="there is no topic"):
        asked(post.broker.address, lambda targets: targets.of_topic(f"{lonely}-er"))


def test_others_who_listen_to_the_topic_are_all_told(post: PostBox) -> None:
    other = f"projects/{PROJECT}/subscriptions/archive"
    post.broker.create_subscription(other, REQUESTS)

    assert found(post, WORK)[WORK] == Target(REQUESTS, WORK, (other,))
    target = asked(post.broker.address, lambda targets: targets.of_topic(REQUESTS))
    assert target == Target(REQUESTS, None, (other, WORK))


def test_without_the_right_to_list_it_says_that_it_cannot_be_sure(post: PostBox) -> None:
    post.broker.fail("ListTopicSubscriptions", grpc.StatusCode.PERMISSION_DENIED)

    target = found(post, WORK)[WORK]
    assert isinstance(target, Target)
    assert (target.topic, target.others) == (REQUESTS, ())
    assert "no permission to list" in target.unsure
    named = asked(post.broker.address, lambda targets: targets.of_topic(DEAD))
    assert "no permission to list" in named.unsure


def test_a_bad_moment_is_tried_again_and_an_outage_is_an_error(post: PostBox) -> None:
    post.broker.fail("GetSubscription", grpc.StatusCode.UNAVAILABLE, times=2)
    assert found(post, WORK) == {WORK: Target(REQUESTS, WORK)}

    post.broker.fail("GetSubscription", grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(BrokerUnavailable):
        found(post, WORK)


@pytest.fixture(scope="module")
def admin(google_emulator: str) -> Iterator[Admin]:
    admin = Admin(google_emulator)
    yield admin
    admin.close()


@pytest.mark.emulator
def test_googles_emulator_says_the_same(google_emulator: str, admin: Admin, tmp_path: Path) -> None:
    topic, first, second = (
        "projects/targets/topics/requests",
        "projects/targets/subscriptions/first",
        "projects/targets/subscriptions/second",
    )
    admin.topics.create_topic(name=topic)
    for name in (first, second):
        admin.subscriptions.create_subscription(request=types.Subscription(name=name, topic=topic))

    def ask() -> Mapping[str, Target | NobodyListens]:
        return asked(google_emulator, lambda targets: targets.find([first]), project="targets")

    assert ask() == {first: Target(topic, first, (second,))}
    admin.topics.delete_topic(topic=topic)
    assert isinstance(ask()[first], NobodyListens)
    admin.subscriptions.delete_subscription(subscription=first)
    assert "does not exist any more" in str(ask()[first])
