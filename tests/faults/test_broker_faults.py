"""The broker restarts, refuses, forgets, hangs, delivers twice: what is acked was done, and done once."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.pubsub_v1 import types
from grpc import StatusCode

from consumer.local.pubsub import Deed
from tests.faults.invariants import judge
from tests.faults.peers import (
    DEAD,
    ONCE,
    REQUESTS,
    RESULTS,
    WORK,
    Peers,
    Tally,
    lasts,
    message_id_of,
    open_peers,
    step,
)
from tests.faults.proxy import Line


def restart_broker(peers: Peers, down: float) -> None:
    port = int(peers.broker.address.rsplit(":", 1)[1])
    peers.broker.stop()
    lasts(down)
    peers.broker.start(port)


def about(*message_ids: str) -> Callable[[Any], bool]:
    """Picks the RPCs that carry an ack id of these messages."""
    return lambda request: any(message_id_of(ack_id) in message_ids for ack_id in request.ack_ids)


def to(topic: str) -> Callable[[Any], bool]:
    """Picks the publishes to this topic."""
    return lambda request: request.topic == topic


# ------------------------------------------------------------------------------- it is away


@pytest.mark.parametrize("down", [0.5, 5.0], ids=["shorter-than-the-lease", "longer-than-the-lease"])
def test_b1_b3_a_broker_that_is_away_during_a_job_gets_one_result_and_one_ack(
    peers: Peers, down: float
) -> None:
    gate = peers.gate()
    sent = peers.send(step("work", gate=str(gate)))
    worker = peers.worker()
    peers.until_running(sent)
    restart_broker(peers, down)
    gate.touch()
    peers.until_settled()
    worker.until(lambda: worker.ready, "it to be ready again")

    assert peers.tally(sent) == ONCE
    judge(peers)


def test_b3_ten_minutes_at_the_broker_without_a_renewal_run_nothing_again(peers: Peers) -> None:
    gate = peers.gate()
    sent = peers.send(step("work", gate=str(gate)))
    peers.worker()
    peers.until_running(sent)
    with peers.broker.fail("ModifyAckDeadline", StatusCode.UNAVAILABLE):
        peers.broker.advance(600)
        peers.until(lambda: peers.deliveries(sent) >= 2, "it to be delivered again")
    gate.touch()
    peers.until_settled()

    assert peers.tally(sent) == ONCE
    judge(peers)


def test_b2_a_subscription_that_is_deleted_makes_it_unready_and_is_not_asked_for_without_pause(
    peers: Peers,
) -> None:
    worker = peers.worker().until_ready()
    with peers.broker.fail("Pull", StatusCode.NOT_FOUND):
        peers.broker.end_leases(WORK)
        restart_broker(peers, 0.0)  # ends the pull that waits
        worker.until(lambda: "pulling" in worker.failing(), "it to be unready")
        before = len(peers.broker.calls("Pull"))
        lasts(2)
        assert len(peers.broker.calls("Pull")) - before <= 3
    sent = peers.send()
    peers.until_settled(60)

    assert peers.tally(sent) == ONCE
    judge(peers)


def test_b9_connections_that_are_cut_again_and_again_lose_nothing(peers: Peers) -> None:
    line = peers.proxy(peers.broker.address)
    peers.worker(PUBSUB_EMULATOR_HOST=line.address).until_ready()
    sent = []
    for _ in range(6):
        sent.append(peers.send(step("work", seconds=0.3)))
        lasts(0.4)
        line.reset()
    peers.until_settled(60)

    assert line.connections > 6
    assert {peers.tally(each).effects for each in sent} == {1}
    assert {peers.tally(each).runs for each in sent} == {1}
    judge(peers)


def test_b9_a_line_that_swallows_everything_for_a_while_loses_nothing(peers: Peers) -> None:
    line = peers.proxy(peers.broker.address)
    gate = peers.gate()
    sent = peers.send(step("work", gate=str(gate)))
    peers.worker(PUBSUB_EMULATOR_HOST=line.address)
    peers.until_running(sent)
    line.set(Line.SILENT)
    gate.touch()
    lasts(5)  # more than its lease
    assert not peers.results(sent)
    line.set(Line.UP)
    after = peers.send()
    peers.until_settled(60)

    assert peers.tally(after) == ONCE
    told = peers.tally(sent)
    assert (told.runs, told.calls, told.letters) == (1, 1, 0)
    assert told.results <= 2  # what was sent into the silence arrives after it
    judge(peers)


# ------------------------------------------------------------------------------- leases


@pytest.mark.alone
def test_b4_an_extension_that_hangs_delays_no_other(peers: Peers) -> None:
    slow = peers.send(step("work", seconds=5))
    peers.worker()
    peers.until_running(slow)
    with peers.broker.fail("ModifyAckDeadline", delay=math.inf, only=about(slow.message_id)) as hung:
        quick = peers.send(step("work", seconds=5))
        peers.until(lambda: peers.acked(quick), "the other message to be acked", 20)
    peers.until_settled()

    assert hung.hits
    assert peers.deliveries(quick) == 1
    assert peers.tally(quick) == ONCE
    assert peers.tally(slow).runs == 1
    judge(peers)


@pytest.mark.alone
def test_b4_extensions_of_which_every_second_fails_keep_the_lease(peers: Peers) -> None:
    calls = itertools.count()
    refused = peers.broker.fail(
        "ModifyAckDeadline", StatusCode.UNAVAILABLE, only=lambda _: next(calls) % 2 == 1
    )
    sent = peers.send(step("work", seconds=6))
    peers.worker()
    peers.until_settled()

    assert refused.hits >= 3
    assert peers.deliveries(sent) == 1
    assert peers.tally(sent) == ONCE
    judge(peers)


@pytest.mark.race
@pytest.mark.parametrize("workers", [1, 2])
def test_b5_a_lease_that_is_lost_during_the_run_runs_nothing_twice(peers: Peers, workers: int) -> None:
    gate = peers.gate()
    sent = peers.send(step("work", gate=str(gate)))
    for _ in range(workers):
        peers.worker().until_ready()
    peers.until_running(sent)
    peers.broker.end_leases(WORK)
    peers.until(lambda: peers.deliveries(sent) >= 2, "it to be delivered again")
    gate.touch()
    peers.until_settled()

    assert peers.tally(sent).runs == 1
    assert peers.tally(sent).effects == 1
    judge(peers)


@pytest.mark.alone
@pytest.mark.parametrize(
    ("kind", "seconds", "lease"), [("stop_the_loop", 5.0, "2"), ("hold_the_gil", 2.5, "4")]
)
def test_b6_a_step_that_stops_the_loop_or_holds_the_gil_costs_no_lease(
    peers: Peers, kind: str, seconds: float, lease: str
) -> None:
    sent = peers.send(step(kind, seconds=seconds))
    peers.worker(LEASE_SECONDS=lease)
    peers.until_settled()

    assert peers.deliveries(sent) == 1
    assert peers.tally(sent) == ONCE
    judge(peers)


# ------------------------------------------------------------------------------- duplicates


@pytest.mark.race
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_b7_the_same_request_published_twice_is_done_once(peers: Peers, when: str, workers: int) -> None:
    gate = peers.gate()
    body = peers.request(step("work", gate=str(gate)))
    first = peers.publish(body)
    if when == "before":
        second = peers.publish(body)
    for _ in range(workers):
        peers.worker().until_ready()
    peers.until_running(first)
    if when == "during":
        second = peers.publish(body)
        peers.until(lambda: peers.deliveries(second), "the second to be delivered")
    gate.touch()
    if when == "after":
        peers.until_settled()
        second = peers.publish(body)
    peers.until_settled()

    assert peers.acked(first)
    assert peers.acked(second)
    assert peers.tally(first) == ONCE
    judge(peers)


def test_b8_a_broker_that_delivers_more_than_asked_for_fills_no_more_than_the_slots(peers: Peers) -> None:
    peers.broker.over_deliver(5)
    sent = [peers.send(step("work", seconds=0.2)) for _ in range(8)]
    peers.worker()
    peers.until_settled()

    assert peers.journal.lines(Deed.NACKED, where=WORK)  # what was too many was handed back
    assert [peers.tally(each) for each in sent] == [ONCE] * 8
    judge(peers)


def test_b15_deliveries_that_others_failed_use_up_no_attempt(tmp_path: Path) -> None:
    policy = types.DeadLetterPolicy(dead_letter_topic=DEAD, max_delivery_attempts=100)
    with open_peers(tmp_path, dead_letter_policy=policy) as peers:
        sent = peers.send(step("work", how="transient", times=2))
        for _ in range(90):
            peers.broker.run(lambda broker: broker.subscription(WORK).pull(peers.broker.now(), 1))
            peers.broker.end_leases(WORK)
        assert peers.deliveries(sent) == 90
        peers.worker(MAX_ATTEMPTS="3")
        peers.until_settled()

        assert peers.tally(sent) == Tally(runs=3, results=1, calls=1, effects=1, letters=0)
        judge(peers)


# ------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("status", [StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED])
def test_b10_a_pull_that_is_refused_makes_it_unready_until_it_is_allowed(
    peers: Peers, status: StatusCode
) -> None:
    fault = peers.broker.fail("Pull", status)
    sent = peers.send()
    worker = peers.worker()
    worker.until(lambda: "pulling" in worker.failing(), "it to be unready for it")
    fault.lift()
    peers.until_settled()
    worker.until(lambda: worker.ready, "it to be ready again")

    assert peers.tally(sent) == ONCE
    judge(peers)


@pytest.mark.parametrize(
    "status",
    [StatusCode.UNAVAILABLE, StatusCode.PERMISSION_DENIED, StatusCode.INTERNAL, StatusCode.INVALID_ARGUMENT],
)
def test_b11_an_ack_that_is_refused_once_costs_no_work(peers: Peers, status: StatusCode) -> None:
    refused = peers.broker.fail("Acknowledge", status, times=1)
    sent = peers.send()
    peers.worker()
    peers.until_settled()

    assert refused.hits == 1
    assert peers.tally(sent) == ONCE
    judge(peers)


def test_b11_an_ack_that_comes_too_late_where_delivery_is_exactly_once_costs_no_work(
    tmp_path: Path,
) -> None:
    with open_peers(tmp_path, enable_exactly_once_delivery=True) as peers:
        late = peers.broker.fail("Acknowledge", delay=math.inf, times=1)
        sent = peers.send()
        peers.worker()
        peers.until(lambda: late.hits, "the ack to be asked for")
        peers.broker.end_leases(WORK)
        late.lift()
        peers.until_settled()

        assert peers.deliveries(sent) == 2
        assert peers.tally(sent) == ONCE
        judge(peers)


@pytest.mark.parametrize(
    ("status", "is_ours"),
    [
        (StatusCode.NOT_FOUND, True),
        (StatusCode.PERMISSION_DENIED, True),
        (StatusCode.UNAVAILABLE, False),
        (StatusCode.RESOURCE_EXHAUSTED, False),
        (StatusCode.INTERNAL, False),
    ],
)
def test_b12_a_results_topic_that_is_away_holds_the_result_and_uses_up_nothing(
    peers: Peers, status: StatusCode, is_ours: bool
) -> None:
    fault = peers.broker.fail("Publish", status, only=to(RESULTS))
    sent = peers.send()
    worker = peers.worker()
    peers.until(lambda: fault.hits >= 3, "the publish to be tried")
    if is_ours:
        worker.until(lambda: not worker.ready, "it to be unready until an operator has acted")
    assert not peers.acked(sent)
    fault.lift()
    peers.until_settled()
    worker.until(lambda: worker.ready, "it to be ready again")

    assert peers.tally(sent) == ONCE
    judge(peers)


def test_b12_a_publish_that_hangs_is_tried_over_another_connection(peers: Peers) -> None:
    hung = peers.broker.fail("Publish", delay=math.inf, times=1, only=to(RESULTS))
    sent = peers.send()
    peers.worker()
    peers.until_settled()

    assert hung.hits == 1
    assert len({rpc.peer for rpc in peers.broker.calls("Publish")}) == 2
    assert peers.tally(sent) == ONCE
    judge(peers)


def test_b13_a_result_too_large_for_a_message_is_published_by_reference(peers: Peers) -> None:
    sent = peers.send(step("work"), step("detection"))
    peers.worker(CLAIM_CHECK_BYTES="20000", DEVICES="simulated:found=200")
    peers.until_settled()

    (published,) = peers.journal.lines(where=RESULTS)
    said = json.loads(published.message.data)
    assert said["size_bytes"] > 20_000
    assert len(peers.bucket.objects[said["result_url"].removeprefix("gs://photos/")].data) > 20_000
    assert peers.tally(sent) == ONCE
    judge(peers)


@pytest.mark.parametrize(
    "status", [StatusCode.NOT_FOUND, StatusCode.PERMISSION_DENIED, StatusCode.UNAVAILABLE]
)
def test_b14_a_dead_letter_topic_that_is_away_keeps_the_message(peers: Peers, status: StatusCode) -> None:
    fault = peers.broker.fail("Publish", status, only=to(DEAD))
    sent = peers.send(step("work", how="permanent"))
    peers.worker()
    peers.until(lambda: fault.hits >= 2, "the dead letter to be tried")
    assert not peers.acked(sent)
    fault.lift()
    peers.until_settled()

    assert peers.tally(sent) == Tally(runs=1, results=1, calls=1, effects=1, letters=1)
    judge(peers)


def test_p1_one_bad_message_of_eight_is_given_up_and_the_others_are_delivered(peers: Peers) -> None:
    sent = [peers.send(step("work", how="permanent" if place == 3 else "")) for place in range(8)]
    peers.worker(SLOTS="8")
    peers.until_settled()

    assert [peers.tally(each).letters for each in sent] == [0, 0, 0, 1, 0, 0, 0, 0]
    assert {peers.tally(each).effects for each in sent} == {1}
    judge(peers, slots=8)
    assert len(peers.journal.lines(where=REQUESTS)) == 8
