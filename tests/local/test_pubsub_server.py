"""The embedded server as others use it: start, restart, time, faults and the record of calls."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.pubsub_v1 import types

from consumer.local.pubsub import AlreadyExists, EmbeddedPubSub, Invalid, NotFound

TOPIC = "projects/p/topics/photos"
SUBSCRIPTION = "projects/p/subscriptions/photos"


@pytest.fixture
def server() -> Iterator[EmbeddedPubSub]:
    with EmbeddedPubSub() as server:
        server.create_topic(TOPIC)
        server.create_subscription(SUBSCRIPTION, TOPIC)
        yield server


Call = Callable[..., Any]


@pytest.fixture
def call(server: EmbeddedPubSub) -> Iterator[Call]:
    """Calls a method of the subscriber's service over the wire."""
    with grpc.insecure_channel(server.address) as channel:

        def call(method: str, timeout: float = 10, **fields: Any) -> Any:
            request = getattr(types, f"{method}Request")
            answer = types.PullResponse if method == "Pull" else types.AcknowledgeRequest
            stub = channel.unary_unary(
                f"/google.pubsub.v1.Subscriber/{method}",
                request_serializer=request.serialize,
                response_deserializer=answer.deserialize,
            )
            return stub(request(subscription=SUBSCRIPTION, **fields), timeout=timeout)

        yield call


def in_background(action: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(action()))
    thread.start()
    return thread, results


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come about in 20 s"
        time.sleep(0.005)


def test_a_port_in_use_is_said(server: EmbeddedPubSub) -> None:
    port = int(server.address.rpartition(":")[2])

    with pytest.raises(RuntimeError, match=str(port)):
        EmbeddedPubSub().start(port)
    with pytest.raises(RuntimeError, match="already running"):
        server.start()


def test_what_it_holds_survives_a_restart(server: EmbeddedPubSub) -> None:
    server.publish(TOPIC, b"photo")
    port = int(server.address.rpartition(":")[2])

    server.stop()
    assert server.backlog(SUBSCRIPTION) == 1
    server.start(port)

    assert server.address == f"127.0.0.1:{port}"
    assert server.backlog(SUBSCRIPTION) == 1


def test_stopping_twice_is_harmless(server: EmbeddedPubSub) -> None:
    server.stop()
    server.stop()


def test_refusals_are_raised_where_there_is_no_wire(server: EmbeddedPubSub) -> None:
    with pytest.raises(AlreadyExists):
        server.create_topic(TOPIC)
    with pytest.raises(Invalid):
        server.create_subscription(f"{SUBSCRIPTION}2", TOPIC, ack_deadline_seconds=5)
    with pytest.raises(NotFound):
        server.backlog(f"{SUBSCRIPTION}2")


def test_time_that_is_skipped_wakes_a_pull_that_waits(server: EmbeddedPubSub, call: Call) -> None:
    server.publish(TOPIC, b"photo")
    call("Pull", max_messages=1)
    thread, answers = in_background(lambda: call("Pull", max_messages=1, timeout=20))
    wait_until(lambda: server.waiting(SUBSCRIPTION) == 1)

    server.advance(10)

    thread.join(20)
    assert [received.message.data for received in answers[0].received_messages] == [b"photo"]


def test_a_lease_ends_by_itself_when_nobody_calls(server: EmbeddedPubSub, call: Call) -> None:
    server.publish(TOPIC, b"photo")
    [received] = call("Pull", max_messages=1).received_messages
    thread, answers = in_background(lambda: call("Pull", max_messages=1, timeout=20))
    wait_until(lambda: server.waiting(SUBSCRIPTION) == 1)

    call("ModifyAckDeadline", ack_ids=[received.ack_id], ack_deadline_seconds=1)

    thread.join(20)
    assert len(answers[0].received_messages) == 1


def test_a_pull_is_answered_before_its_own_deadline(call: Call) -> None:
    assert not call("Pull", max_messages=1, timeout=0.5).received_messages


def test_a_fault_hits_so_many_calls_and_only_those_it_is_meant_for(
    server: EmbeddedPubSub, call: Call
) -> None:
    fault = server.fail(
        "Pull", grpc.StatusCode.ABORTED, times=2, only=lambda request: request.max_messages == 7
    )
    call("Pull", max_messages=1, return_immediately=True)
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as failed:
            call("Pull", max_messages=7, return_immediately=True)
        assert failed.value.code() is grpc.StatusCode.ABORTED

    call("Pull", max_messages=7, return_immediately=True)

    assert fault.hits == 2


def test_a_call_that_hangs_goes_on_when_the_fault_is_lifted(server: EmbeddedPubSub, call: Call) -> None:
    server.publish(TOPIC, b"photo")
    with server.fail("Pull", delay=math.inf) as fault:
        thread, answers = in_background(lambda: call("Pull", max_messages=1))
        wait_until(lambda: fault.hits == 1)
        assert server.leased(SUBSCRIPTION) == 0

    thread.join(20)
    assert len(answers[0].received_messages) == 1


def test_an_answer_can_be_lost_after_the_call_took_effect(server: EmbeddedPubSub, call: Call) -> None:
    server.publish(TOPIC, b"photo")
    [received] = call("Pull", max_messages=1).received_messages

    with server.fail("*", grpc.StatusCode.UNAVAILABLE, applied=True), pytest.raises(grpc.RpcError):
        call("Acknowledge", ack_ids=[received.ack_id])

    assert server.backlog(SUBSCRIPTION) == 0


def test_every_call_is_recorded_also_one_that_fails(server: EmbeddedPubSub, call: Call) -> None:
    server.publish(TOPIC, b"photo")
    [received] = call("Pull", max_messages=3).received_messages
    server.fail("ModifyAckDeadline", grpc.StatusCode.INTERNAL)
    with pytest.raises(grpc.RpcError):
        call("ModifyAckDeadline", ack_ids=[received.ack_id], ack_deadline_seconds=60)

    assert [(rpc.method, rpc.ids, rpc.seconds) for rpc in server.rpcs] == [
        ("Pull", 3, None),
        ("ModifyAckDeadline", 1, 60),
    ]
    assert server.calls("ModifyAckDeadline")[0].ack_ids == (received.ack_id,)
    assert server.rpcs[0].at <= server.rpcs[1].at <= time.monotonic()


def test_what_is_not_built_says_so(server: EmbeddedPubSub) -> None:
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/google.pubsub.v1.Subscriber/Seek")(b"", timeout=10)

    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
