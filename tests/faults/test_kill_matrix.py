"""Kill -9 again, at three points that stand for the others: for what a bucket announces, and exactly once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.invariants import judge
from tests.faults.peers import RESULTS, Peers, Tally, open_peers, small_jpeg

PHOTO = "acme/camera/1.jpg"
ROUTES = """
routes:
  - bucket: photos
    prefix: "{tenant_id}/camera/"
    pipeline: {steps: [{type: step, name: work}]}
"""


def announce(peers: Peers) -> str:
    """Put a photo into the bucket, and publish that it is there; return the message's id."""
    photo = peers.bucket.put(PHOTO, small_jpeg())
    return peers.notify(photo.name, photo.generation)


def tally_of_all(peers: Peers) -> Tally:
    """How often each thing happened to the only message there is."""
    return Tally(
        runs=len(peers.runs()),
        results=len(peers.journal.lines(where=RESULTS)),
        calls=len(peers.backend.received()),
        effects=len(peers.backend.effects),
        letters=sum(map(len, peers.story().letters().values())),
    )


@pytest.mark.parametrize(
    ("source", "exactly_once"), [("request", True), ("notification", False), ("notification", True)],
    ids=["request-once", "notification", "notification-once"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("point", "runs", "results", "calls"),
    [
        pytest.param("run", 2, 1, 1, id="C4-run"),
        pytest.param("recorded", 1, 1, 1, id="C5-recorded"),
        pytest.param("called_back", 1, 2, 2, id="C9-called-back"),
    ],
)
def test_a_worker_killed_on_the_way_loses_nothing_whatever_announced_it_and_however_it_is_delivered(
    tmp_path: Path, point: str, runs: int, results: int, calls: int, source: str, exactly_once: bool
) -> None:
    with open_peers(tmp_path, enable_exactly_once_delivery=exactly_once) as peers:
        (tmp_path / "routes.yaml").write_text(ROUTES)
        routed = {"ROUTES_FILE": str(tmp_path / "routes.yaml")}
        message_id = peers.send().message_id if source == "request" else announce(peers)
        assert peers.worker(**routed, FAILPOINTS=f"{point}=kill").ended(60) == -signal.SIGKILL

        peers.worker(**routed).until_ready()
        peers.until_settled()

        assert message_id in peers.story().acked()
        assert tally_of_all(peers) == Tally(runs, results, calls, effects=1, letters=0)
        judge(peers)
