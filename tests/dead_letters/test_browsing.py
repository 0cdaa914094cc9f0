"""Looking through a subscription: everything once, nothing kept, and an end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from typing import Any, Self

import grpc
import pytest

from consumer.broker import BrokerMisconfigured, BrokerUnavailable
from consumer.broker.pubsub import Endpoint
from consumer.broker.rpc import RetryBudget
from consumer.broker.subscriber import PubSubSubscriber
from consumer.dead_letters.browsing import Browser, Ended, Gathered
from consumer.dead_letters.envelope import DeadLetter
from consumer.dead_letters.filters import Filters
from consumer.dead_letters.holding import Holding
from consumer.interrupt import Stop
from tests.dead_letters.postbox import DEAD, DEAD_SUB, PostBox, request


async def as_it_is(letter: DeadLetter) -> DeadLetter:
    return letter


def gather(
    post: PostBox,
    filters: Filters = Filters(),  # noqa: B008 (frozen)
    limit: int | None = None,
    *,
    stop_after: float | None = None,
    subscription: str = DEAD_SUB,
    read: Any = as_it_is,
    on_seen: Callable[[int], None] = lambda _: None,
    pull_timeout: float = 0.5,
    **bounds: Any,
) -> Gathered:
    async def whole() -> Gathered:
        stop = Stop()
        if stop_after is not None:
            asyncio.get_running_loop().call_later(stop_after, stop.interrupt)
        subscriber = PubSubSubscriber(
            subscription,
            Endpoint(emulator=post.broker.address),
            pull_timeout,
            RetryBudget(total=1, per_call=1),
        )
        try:
            async with Holding(subscriber) as holding:
                return await Browser(subscriber, holding, read, stop, **bounds).gather(
                    filters, limit, on_seen
                )
        finally:
            await subscriber.close()

    return asyncio.run(whole())


def test_everything_is_seen_once_and_handed_back(post: PostBox) -> None:
    for i in range(1200):
        post.die(request(i), failed_at=f"2026-03-01T00:{i // 60:02}:{59 - i % 60:02}Z")
    told: list[int] = []
    found = gather(post, on_seen=told.append, pull_timeout=3)  # what comes too late for its pull is missed

    assert (found.seen, len(found.letters), found.ended, found.saw_all) == (1200, 1200, Ended.IDLE, True)
    assert told == sorted(told)
    assert told[-1] == 1200
    assert len({letter.id for letter in found.letters}) == 1200
    assert [letter.failed_at for letter in found.letters] == sorted(x.failed_at for x in found.letters)
    assert post.left == 1200


def test_what_does_not_match_is_seen_and_handed_back_too(post: PostBox) -> None:
    for i in range(20):
        post.die(request(i), error_code="object_missing" if i % 4 else "invalid_pipeline")
    found = gather(post, Filters(codes=frozenset({"invalid_pipeline"})))

    assert (found.seen, len(found.letters)) == (20, 5)
    assert post.left == 20


def test_it_stops_at_a_limit_and_says_so(post: PostBox) -> None:
    for i in range(10):
        post.die(request(i))

    three = gather(post, limit=3)
    assert (len(three.letters), three.ended, three.saw_all) == (3, Ended.LIMIT, False)
    assert gather(post, limit=30).ended is Ended.IDLE
    assert post.left == 10


def test_no_more_are_held_than_is_bearable(post: PostBox) -> None:
    for i in range(10):
        post.die(request(i, filler="x" * 1000))
    by_count, by_size = gather(post, max_seen=4), gather(post, max_bytes=4000)

    assert (by_count.seen, by_count.ended) == (4, Ended.FULL)
    assert by_size.ended is Ended.FULL
    assert post.left == 10


def test_new_letters_all_the_time_do_not_keep_it_going(post: PostBox) -> None:
    over = threading.Event()

    def arrive() -> None:
        while not over.is_set():
            post.broker.publish(DEAD, b"new")
            time.sleep(0.02)

    post.die(request())
    arriving = threading.Thread(target=arrive)
    arriving.start()
    try:
        started = time.monotonic()
        found = gather(post, skew=timedelta())
        assert time.monotonic() - started < 10
        assert found.saw_all
        assert found.seen >= 1
    finally:
        over.set()
        arriving.join()
    assert post.broker.leased(DEAD_SUB) == 0


class Behind(datetime):
    """A clock that is 20 s behind."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) - timedelta(seconds=20)


def test_a_clock_that_is_behind_the_brokers_hides_no_letters(
    post: PostBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.dead_letters.browsing.datetime", Behind)
    for i in range(1000):
        post.broker.publish(DEAD, b"%d" % i)

    assert gather(post).seen == 1000


def test_a_stop_while_it_waits_hands_everything_back(post: PostBox) -> None:
    post.die(request())
    found = gather(post, stop_after=0.2)

    assert found.ended is Ended.INTERRUPTED
    assert post.left == 1


def test_a_broker_that_is_away_for_a_moment_is_waited_for(
    post: PostBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.dead_letters.browsing._PAUSE", 0.1)
    post.die(request())
    post.broker.fail("Pull", grpc.StatusCode.UNAVAILABLE, times=2)

    assert gather(post).seen == 1


def test_a_broker_that_stays_away_is_an_error_and_nothing_stays_leased(post: PostBox) -> None:
    post.die(request())
    post.broker.fail("Pull", grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(BrokerUnavailable):
        gather(post, outage=0.5)
    post.broker.heal()

    assert post.left == 1


def test_a_subscription_that_does_not_exist_is_the_operators(post: PostBox) -> None:
    with pytest.raises(BrokerMisconfigured, match="dead-leters"):
        gather(post, subscription="projects/nursery/subscriptions/dead-leters")


def test_what_cannot_be_judged_is_told_apart(post: PostBox) -> None:
    post.die(request(1))

    async def unreadable(letter: DeadLetter) -> DeadLetter:
        return replace(letter, original=None, unreadable="gone")

    found = gather(post, Filters(tenants=frozenset({"acme"})), read=unreadable)
    assert (found.letters, [letter.unreadable for letter in found.unjudged]) == ([], ["gone"])
    assert post.left == 1
