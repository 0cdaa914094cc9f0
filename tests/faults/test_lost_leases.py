"""A lease that is lost while something is being told: what is told twice, and what is not."""

from __future__ import annotations

from grpc import StatusCode

from consumer.local.pubsub import Deed
from tests.faults.invariants import judge
from tests.faults.peers import RESULTS, Peers, Tally, lasts


def test_b12_a_publish_that_outlasts_its_lease_is_the_same_result_again_and_one_callback(
    peers: Peers,
) -> None:
    # One look at the lease stands before a publish, which is tried for a minute (`broker/rpc.py`).
    refused = peers.broker.fail("Publish", StatusCode.UNAVAILABLE, only=lambda it: it.topic == RESULTS)
    sent = peers.send()
    first = peers.worker(SLOTS="1")
    peers.until(lambda: refused.hits, "it to publish")
    deaf = peers.broker.fail("ModifyAckDeadline", StatusCode.UNAVAILABLE)
    peers.worker()
    peers.until(lambda: peers.deliveries(sent) == 2, "another worker to get it")
    lasts(1)  # so that nobody believes in the first lease any more
    deaf.lift()
    refused.lift()
    peers.until_settled()

    [lost] = peers.story().of(sent.message_id, Deed.EXPIRED)
    assert [result.at > lost.at for result in peers.results(sent)] == [True, True]
    assert peers.tally(sent) == Tally(runs=1, results=2, calls=1, effects=1, letters=0)
    assert first.alive
    judge(peers)
