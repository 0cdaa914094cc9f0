"""Leases are kept whatever happens, and a lease that might be over never counts as one."""

from __future__ import annotations

import asyncio
import ctypes
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import pytest

from consumer.broker import BrokerUnavailable, LeaseLost
from consumer.broker.leases import Lease, LeaseKeeper
from consumer.broker.pubsub import Endpoint
from consumer.broker.subscriber import PubSubSubscriber
from consumer.local.pubsub import EmbeddedPubSub

WaitUntil = Callable[[Callable[[], bool]], None]


@dataclass
class Rpc:
    ack_ids: list[str]
    sent: float
    answer: Future[None] = field(default_factory=Future)


class Line:
    """A keeper whose clock and whose answers are in the test's hand."""

    def __init__(self) -> None:
        self.time = 100.0
        self.rpcs: list[Rpc] = []
        self.keeper = LeaseKeeper(self._extend, lease_seconds=120, rpc_timeout=5, clock=lambda: self.time)

    def _extend(self, ack_ids: Sequence[str], seconds: int, timeout: float) -> Future[None]:
        assert (seconds, timeout) == (120, 5)
        self.rpcs.append(Rpc(list(ack_ids), self.time))
        return self.rpcs[-1].answer

    def tick(self, after: float = 0.0) -> list[Rpc]:
        """Let time pass and the keeper look; return what it sent."""
        self.time += after
        already = len(self.rpcs)
        self.keeper.tick()
        return self.rpcs[already:]

    def held(self, ack_id: str) -> Lease:
        """A lease whose first extension has succeeded."""
        [lease] = self.keeper.hold([ack_id])
        [rpc] = self.tick()
        rpc.answer.set_result(None)
        return lease


def test_the_first_extension_is_sent_at_once_and_covers_nothing_before_its_answer() -> None:
    line = Line()

    [lease] = line.keeper.hold(["a"])
    [rpc] = line.tick()

    assert rpc.ack_ids == ["a"]
    assert lease.remaining() == 0
    assert not lease.covers(0)
    rpc.answer.set_result(None)
    assert lease.remaining() == 120


def test_messages_that_arrive_together_share_the_first_extension_but_no_later_one() -> None:
    line = Line()
    line.keeper.hold(["a", "b"])
    line.keeper.hold(["c"])

    [first] = line.tick()
    first.answer.set_result(None)
    renewals = line.tick(after=30)

    assert sorted(first.ack_ids) == ["a", "b", "c"]
    assert sorted(rpc.ack_ids[0] for rpc in renewals) == ["a", "b", "c"]
    assert {len(rpc.ack_ids) for rpc in renewals} == {1}


def test_a_lease_is_renewed_at_a_quarter_of_its_length() -> None:
    line = Line()
    line.held("a")

    assert line.tick(after=29.9) == []
    [renewal] = line.tick(after=0.1)
    renewal.answer.set_result(None)
    assert line.tick(after=29.9) == []
    assert len(line.tick(after=0.1)) == 1


def test_a_lease_ends_as_counted_from_the_sending_of_its_extension() -> None:
    line = Line()
    [lease] = line.keeper.hold(["a"])
    [rpc] = line.tick()

    line.time += 4
    rpc.answer.set_result(None)

    assert lease.remaining() == 116
    assert lease.covers(115)
    assert not lease.covers(116)


def test_an_answer_that_does_not_come_delays_no_other_lease() -> None:
    line = Line()
    slow, fast = line.held("slow"), line.held("fast")
    for rpc in line.tick(after=30):
        if rpc.ack_ids == ["fast"]:
            rpc.answer.set_result(None)

    renewed = []
    for _ in range(60):
        for rpc in line.tick(after=1):
            renewed += rpc.ack_ids
            if rpc.ack_ids == ["fast"]:
                rpc.answer.set_result(None)

    assert renewed.count("fast") == 2
    assert fast.covers(85)
    assert renewed.count("slow") == 10, "each is given up 1 s after its own timeout, and sent anew"
    assert slow.remaining() == 30


def test_failures_are_retried_on_a_short_schedule_also_after_the_lease_is_over() -> None:
    line = Line()
    lease = line.held("a")
    [rpc] = line.tick(after=30)
    sent = []
    while line.time < 260:
        rpc.answer.set_exception(BrokerUnavailable("down"))
        while not (again := line.tick(after=0.05)):
            pass
        [rpc] = again
        sent.append(rpc.sent)

    pauses = [later - earlier for earlier, later in zip([130.0, *sent], sent, strict=False)]
    assert pauses[:6] == pytest.approx([0.25, 0.5, 1, 2, 4, 5], abs=0.06)
    assert max(pauses) < 5.1
    assert lease.remaining() == 0


def test_an_outage_shorter_than_the_lease_leaves_no_trace() -> None:
    line = Line()
    lease = line.held("a")
    [rpc] = line.tick(after=30)
    rpc.answer.set_exception(BrokerUnavailable("down"))
    [rpc] = line.tick(after=80)

    assert lease.remaining() == 10
    rpc.answer.set_result(None)

    assert lease.covers(119)
    assert lease.failures == 0


def test_a_lease_once_over_covers_nothing_although_the_broker_extends_it_again() -> None:
    line = Line()
    lease = line.held("a")

    [rpc] = line.tick(after=121)  # the process was frozen, say
    assert not lease.covers(0)
    rpc.answer.set_result(None)

    assert lease.lapsed
    assert lease.remaining() == 120
    assert not lease.covers(0)
    [renewal] = line.tick(after=30)
    renewal.answer.set_result(None)
    assert not lease.covers(0)


def test_a_first_extension_later_than_any_subscriptions_deadline_is_too_late() -> None:
    line = Line()
    [lease] = line.keeper.hold(["a"])

    [rpc] = line.tick(after=10.1)
    rpc.answer.set_result(None)

    assert not lease.covers(0)


def test_a_refused_lease_is_lost_and_not_asked_for_again() -> None:
    line = Line()
    lease = line.held("a")
    [rpc] = line.tick(after=30)

    rpc.answer.set_exception(LeaseLost(["a"]))

    assert lease.lost
    assert lease.remaining() == 0
    assert line.keeper.held == 0
    assert line.tick(after=60) == []


def test_one_refused_lease_among_many_leaves_the_others_extended() -> None:
    line = Line()
    leases = line.keeper.hold(["a", "b", "c"])
    [rpc] = line.tick()

    rpc.answer.set_exception(LeaseLost(["b"]))

    assert [lease.lost for lease in leases] == [False, True, False]
    assert [lease.remaining() for lease in leases] == [120, 0, 120]


def test_a_failed_first_extension_is_retried_for_each_message_alone() -> None:
    line = Line()
    leases = line.keeper.hold(["a", "b"])
    [rpc] = line.tick()
    rpc.answer.set_exception(BrokerUnavailable("down"))

    again = line.tick(after=0.25)

    assert sorted(rpc.ack_ids[0] for rpc in again) == ["a", "b"]
    for rpc in again:
        rpc.answer.set_result(None)
    assert all(lease.covers(119) for lease in leases)


def test_a_released_lease_is_extended_no_more() -> None:
    line = Line()
    lease = line.held("a")

    line.keeper.release(lease)

    assert line.tick(after=30) == []
    assert line.keeper.held == 0


def test_the_keeper_says_which_lease_ends_first() -> None:
    line = Line()
    assert line.keeper.shortest() is None
    line.held("a")
    line.time += 20
    line.held("b")

    assert line.keeper.shortest() == 100


@pytest.mark.anyio
async def test_a_fence_waits_for_the_extension_that_is_under_way() -> None:
    line = Line()
    [lease] = line.keeper.hold(["a"])
    [rpc] = line.tick()
    fence = asyncio.create_task(lease.secured(60, timeout=10))
    await asyncio.sleep(0)
    assert not fence.done()

    threading.Thread(target=rpc.answer.set_result, args=(None,)).start()

    assert await fence


@pytest.mark.anyio
async def test_a_fence_fails_at_once_when_the_lease_is_lost_and_in_time_when_nothing_is_heard() -> None:
    line = Line()
    lost, silent = line.keeper.hold(["lost", "silent"])
    [rpc] = line.tick()
    fence = asyncio.create_task(lost.secured(60, timeout=math.inf))
    await asyncio.sleep(0)

    rpc.answer.set_exception(LeaseLost(["lost", "silent"]))
    assert not await fence

    [silent] = line.keeper.hold(["silent"])
    assert not await silent.secured(60, timeout=0.01)


@contextmanager
def keeping(
    endpoint: Endpoint, subscription: str, lease_seconds: int
) -> Iterator[tuple[PubSubSubscriber, LeaseKeeper]]:
    """A real subscriber and a real thread."""
    subscriber = PubSubSubscriber(subscription, endpoint)
    keeper = LeaseKeeper(subscriber.extend, lease_seconds)
    keeper.start()
    try:
        yield subscriber, keeper
    finally:
        keeper.stop()
        asyncio.run(subscriber.close())


def hold_one(server: EmbeddedPubSub, subscriber: PubSubSubscriber, keeper: LeaseKeeper, topic: str) -> Lease:
    server.publish(topic, b"photo")
    [delivery] = asyncio.run(subscriber.pull(1))
    [lease] = keeper.hold([delivery.ack_id])
    return lease


def test_a_job_of_80_seconds_has_one_delivery_under_a_deadline_of_10(
    server: EmbeddedPubSub, endpoint: Endpoint, topic: str, subscription: str, wait_until: WaitUntil
) -> None:
    server.publish(topic, b"photo")
    subscriber = PubSubSubscriber(subscription, endpoint, pull_timeout=0.2)
    keeper = LeaseKeeper(subscriber.extend, clock=server.now)

    async def job() -> None:
        [delivery] = await subscriber.pull(1)
        [lease] = keeper.hold([delivery.ack_id])
        for _ in range(16):
            keeper.tick()
            await asyncio.to_thread(wait_until, lambda: lease.covers(80))
            server.advance(5)
        assert not await subscriber.pull(1)
        keeper.release(lease)
        await subscriber.acknowledge([delivery.ack_id])
        await subscriber.close()

    asyncio.run(job())

    assert server.backlog(subscription) == 0
    assert {call.seconds for call in server.calls("ModifyAckDeadline")} == {120}


def test_a_blocked_event_loop_does_not_lose_the_lease(
    server: EmbeddedPubSub, endpoint: Endpoint, topic: str, subscription: str
) -> None:
    with keeping(endpoint, subscription, lease_seconds=2) as (subscriber, keeper):
        lease = hold_one(server, subscriber, keeper, topic)

        async def block() -> None:
            time.sleep(2.5)  # noqa: ASYNC251 (this is the fault)

        asyncio.run(block())

        assert lease.covers(0.1)
        assert server.leased(subscription) == 1


def test_a_thread_that_holds_the_interpreter_does_not_lose_the_lease(
    server: EmbeddedPubSub, endpoint: Endpoint, topic: str, subscription: str, wait_until: WaitUntil
) -> None:
    # PyDLL, unlike CDLL, keeps the interpreter's lock during the call: no other thread runs meanwhile.
    usleep = ctypes.PyDLL(None).usleep
    with keeping(endpoint, subscription, lease_seconds=4) as (subscriber, keeper):
        lease = hold_one(server, subscriber, keeper, topic)
        wait_until(lambda: lease.confirmed)

        for _ in range(2):
            usleep(2_000_000)
            calls = len(server.calls("ModifyAckDeadline"))
            wait_until(lambda calls=calls: len(server.calls("ModifyAckDeadline")) > calls)

        assert lease.covers(1)
        assert not lease.lapsed
        assert server.leased(subscription) == 1


def test_a_call_that_hangs_for_one_message_does_not_delay_another(
    server: EmbeddedPubSub, endpoint: Endpoint, topic: str, subscription: str, wait_until: WaitUntil
) -> None:
    with keeping(endpoint, subscription, lease_seconds=2) as (subscriber, keeper):
        bad = hold_one(server, subscriber, keeper, topic)
        good = hold_one(server, subscriber, keeper, topic)
        wait_until(lambda: bad.confirmed and good.confirmed)

        with server.fail("ModifyAckDeadline", delay=math.inf, only=lambda r: bad.ack_id in r.ack_ids):
            wait_until(lambda: bad.remaining() == 0)
            assert good.covers(1)
            assert not good.failures


def test_an_outage_ends_with_the_lease_still_held(
    server: EmbeddedPubSub, endpoint: Endpoint, topic: str, subscription: str, wait_until: WaitUntil
) -> None:
    with keeping(endpoint, subscription, lease_seconds=20) as (subscriber, keeper):
        lease = hold_one(server, subscriber, keeper, topic)
        wait_until(lambda: lease.confirmed)
        outage = server.fail("ModifyAckDeadline", grpc.StatusCode.UNAVAILABLE)
        lease.due = 0.0
        wait_until(lambda: lease.failures >= 2)

        outage.lift()

        wait_until(lambda: not lease.failures)
        assert lease.covers(15)


def test_a_restarted_broker_is_found_again(
    server: EmbeddedPubSub, endpoint: Endpoint, topic: str, subscription: str, wait_until: WaitUntil
) -> None:
    port = int(server.address.rpartition(":")[2])
    with keeping(endpoint, subscription, lease_seconds=20) as (subscriber, keeper):
        lease = hold_one(server, subscriber, keeper, topic)
        wait_until(lambda: lease.confirmed)
        server.stop()
        lease.due = 0.0
        wait_until(lambda: lease.failures >= 1)

        server.start(port)

        wait_until(lambda: not lease.failures)
        assert server.leased(subscription) == 1


def test_the_thread_shows_that_it_is_alive_and_ends_when_told() -> None:
    line = Line()
    line.time = time.monotonic()
    keeper = LeaseKeeper(line._extend)
    keeper.start()

    assert keeper.last_tick_age() < 2
    keeper.stop()
    assert "lease-keeper" not in {thread.name for thread in threading.enumerate()}
