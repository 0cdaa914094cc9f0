"""A destination is away for longer than HOLD_TIMEOUT: what it holds is handed back, and costs little then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from grpc import StatusCode

from tests.faults.bucket import kind_of, name_of
from tests.faults.invariants import judge
from tests.faults.peers import DEAD, LONGEST_LEASE, ONCE, RESULTS, Peers, Sent, Tally, message_id_of, step

REFUSED = StatusCode.PERMISSION_DENIED
"""Told at once: what is only unavailable, Pub/Sub's and Cloud Storage's own tries take a minute to tell."""


@contextmanager
def away(peers: Peers, what: str) -> Iterator[None]:
    """Let a destination be away while the context lasts."""
    match what:
        case "backend":
            peers.backend.stop()
            yield
            peers.backend.start()
        case "backend's service":
            with peers.backend.fail(status=503):
                yield
        case "results topic":
            with peers.broker.fail("Publish", REFUSED, only=lambda request: request.topic == RESULTS):
                yield
        case "dead-letter topic":
            with peers.broker.fail("Publish", REFUSED, only=lambda request: request.topic == DEAD):
                yield
        case "bucket":
            with peers.bucket.fail(status=403):
                yield


def until_handed_back(peers: Peers, sent: list[Sent]) -> None:
    wanted = {each.message_id for each in sent}

    def are_handed_back() -> bool:
        said = [rpc for rpc in peers.broker.calls("ModifyAckDeadline") if (rpc.seconds or 0) > LONGEST_LEASE]
        return wanted <= {message_id_of(ack_id) for rpc in said for ack_id in rpc.ack_ids}

    peers.until(are_handed_back, "all to be handed back", 60)


def asked_of_the_bucket(peers: Peers, sent: Sent, since: int) -> Counter[str]:
    """The requests about one message, but for its claim's, by what was done and to what."""
    requests = [exchange.request for exchange in list(peers.bucket.exchanges)[since:]]
    mine = [(kind_of(one), name_of(one)) for one in requests if sent.image_id in name_of(one)]
    endings = [(kind, name.rpartition(".")[2]) for kind, name in mine]
    return Counter(f"{kind} {ending}" for kind, ending in endings if ending != "claim")


LOOK_UP = Counter({"stat failed": 1, "stat json": 1, "stat attempts": 1})
RECORD, FAILED = Counter({"media json": 1}), Counter({"media failed": 1})
"""What a look-up asks for besides, where a result is recorded; where the message's own failure is."""


@pytest.mark.parametrize(
    ("what", "running", "tally", "look_up"),
    [
        ("backend", True, Tally(runs=1, results=2, calls=1, effects=1, letters=0), LOOK_UP + RECORD),
        (
            "backend's service",
            True,
            Tally(runs=1, results=2, calls=1, effects=1, letters=0),
            LOOK_UP + RECORD,
        ),
        ("results topic", True, ONCE, LOOK_UP + RECORD),
        (
            "dead-letter topic",
            True,
            Tally(runs=1, results=1, calls=1, effects=1, letters=1),
            LOOK_UP + FAILED,
        ),
        ("bucket", False, ONCE, Counter()),  # what could not even be claimed is new
        # What could not be recorded is not there: it is the one outage that costs a run. Nor could the claim
        # be let go of, and whoever takes a claim over looks once more before the first step.
        ("bucket", True, Tally(runs=2, results=1, calls=1, effects=1, letters=0), LOOK_UP + LOOK_UP),
    ],
    ids=[
        "backend",
        "backend-503",
        "results-topic",
        "dead-letter-topic",
        "bucket-before-the-run",
        "bucket-during-the-run",
    ],
)
def test_k4_b12_b14_g1_an_outage_longer_than_the_hold_uses_up_no_attempt_and_costs_one_look_up_on_return(
    peers: Peers, what: str, running: bool, tally: Tally, look_up: Counter[str]
) -> None:
    """Away from when the pipelines run, or from before the messages came."""
    peers.worker(HOLD_TIMEOUT="1", MAX_ATTEMPTS="1").until_ready()
    gate, how = peers.gate(), "permanent" if what == "dead-letter topic" else ""
    work = step("work", gate=str(gate), how=how)
    sent = [peers.send(work) for _ in range(2 * running)]
    for each in sent:
        peers.until_running(each)
    with away(peers, what):
        gate.touch()
        sent = sent or [peers.send(work) for _ in range(2)]
        until_handed_back(peers, sent)
        assert not any(map(peers.acked, sent))
    since, before = len(peers.bucket.exchanges), [peers.deliveries(each) for each in sent]
    peers.until_settled(60)

    told = [peers.tally(each) for each in sent]
    if what == "backend's service":  # which answers: the refused calls are counted too
        told = [replace(each, calls=min(each.calls, 1)) for each in told]
    assert told == [tally] * 2
    for each, earlier in zip(sent, before, strict=True):
        asked = asked_of_the_bucket(peers, each, since)
        reads = {name: times for name, times in asked.items() if name.startswith(("stat", "media"))}
        # Where the machine is so slow that a lease ends on the way, there is one for each delivery.
        if peers.deliveries(each) - earlier == 1:
            assert reads == look_up, asked
    judge(peers)
