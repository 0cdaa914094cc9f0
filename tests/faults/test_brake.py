"""A sender, or a slip of ours, that makes every message a bad one: the brake keeps the rest in the queue."""

from __future__ import annotations

from tests.faults.invariants import judge
from tests.faults.peers import ONCE, SLOTS, WORK, Peers, lasts, step

ALLOWED, WINDOW, SENT = 3, 6.0, 12


def letters_at(peers: Peers) -> list[float]:
    return sorted(letter.at for found in peers.story().letters().values() for letter in found)


def test_p2_when_every_message_is_given_up_for_one_reason_the_rest_is_kept_until_the_brake_releases(
    peers: Peers,
) -> None:
    bad = [peers.send(step("wrok")) for _ in range(SENT)]
    worker = peers.worker(BRAKE_DEAD_LETTERS=str(ALLOWED), FAULTS_BRAKE_WINDOW=str(WINDOW))
    worker.until(lambda: len(letters_at(peers)) > ALLOWED, "the brake to engage", 60)
    lasts(WINDOW / 4)  # what was pulled before is given up
    stopped = len(letters_at(peers))
    lasts(WINDOW / 4)

    most = ALLOWED + 1 + SLOTS
    """One more engages it, and what has a slot by then goes on."""
    assert len(letters_at(peers)) == stopped <= most
    assert peers.broker.backlog(WORK) == SENT - stopped
    good = peers.send()
    peers.until_settled(60)

    found = letters_at(peers)
    assert [len(peers.letters(each)) for each in bad] == [1] * SENT
    assert all(later - earlier > WINDOW - 1 for earlier, later in zip(found, found[most:], strict=False))
    assert peers.tally(good) == ONCE
    judge(peers)
