"""Outages that meet the broker's own count of deliveries, or a message that is being given up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from google.pubsub_v1 import types

from tests.faults.invariants import judge
from tests.faults.peers import (
    DEAD,
    DEAD_SUB,
    LONGEST_LEASE,
    ONCE,
    WORK,
    Peers,
    message_id_of,
    open_peers,
    step,
)

LEAST_DELIVERIES = 20
"""A dead-letter policy of fewer is refused by `mlworker doctor`."""
TWO_HOURS = 7200


def rested(peers: Peers) -> Counter[str]:
    """For how many seconds in all each message was to rest; in truth each rest is cut short."""
    seconds = Counter[str]()
    for rpc in peers.broker.calls("ModifyAckDeadline"):
        if rpc.seconds is not None and rpc.seconds > LONGEST_LEASE:
            for ack_id in rpc.ack_ids:
                seconds[message_id_of(ack_id)] += round(rpc.seconds)
    return seconds


def test_k4_messages_for_a_host_that_is_away_for_two_hours_use_up_no_net_of_deliveries(
    tmp_path: Path,
) -> None:
    net = types.DeadLetterPolicy(dead_letter_topic=DEAD, max_delivery_attempts=LEAST_DELIVERIES)
    with open_peers(tmp_path, dead_letter_policy=net) as peers:
        host = f"http://localhost:{peers.backend.port}"  # by another name than the backend itself
        peers.backend.stop()
        sent = [peers.send(callback_url=f"{host}/results") for _ in range(4)]
        peers.worker(SLOTS="4", TENANT_CONCURRENCY="4", CALLBACK_ALLOWED_HOSTS=host)

        def have_rested() -> bool:
            # No rest is cut short beyond the two hours: each costs a delivery, of which the net has twenty.
            enough = {message for message, seconds in rested(peers).items() if seconds >= TWO_HOURS}
            peers.cut_rests(but_of=enough)
            return len(enough) == 2

        peers.until(have_rested, "two of them to wait in their slots, and two to have rested for two hours")
        assert peers.broker.backlog(DEAD_SUB) == 0
        peers.backend.start()
        peers.until(lambda: len(peers.backend.effects) == 2, "those that waited in their slots")
        peers.broker.end_leases(WORK)
        peers.until_settled()

        tallies = [peers.tally(each) for each in sent]
        assert [(tally.runs, tally.effects, tally.letters) for tally in tallies] == [(1, 1, 0)] * 4
        judge(peers, slots=4)


def test_k4_a_bad_message_for_a_host_that_is_away_is_one_dead_letter_however_often_it_comes(
    peers: Peers,
) -> None:
    host = f"http://localhost:{peers.backend.port}"
    peers.backend.stop()
    held = [peers.send(callback_url=f"{host}/results") for _ in range(2)]
    worker = peers.worker(SLOTS="4", CALLBACK_ALLOWED_HOSTS=host)
    worker.until(lambda: worker.metric("mlworker_peers_waited_for"), "the host's share to be taken", 60)
    peers.until(lambda: all(peers.results(each) for each in held), "both of them to wait for the host")
    bad = peers.send(step("wrok"), callback_url=f"{host}/results")
    peers.until(lambda: peers.cut_rests() or peers.deliveries(bad) >= 6, "it to come again and again")

    assert not peers.acked(bad)
    assert (len(peers.letters(bad)), len(peers.results(bad))) == (1, 1)
    peers.backend.start()
    peers.until_settled(60)

    assert (peers.tally(bad).letters, peers.tally(bad).results, peers.tally(bad).effects) == (1, 1, 1)
    assert [peers.tally(each) for each in held] == [ONCE] * 2
    judge(peers, slots=4)
