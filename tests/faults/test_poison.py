"""Messages that take their worker, or its memory, with them: from then on they run alone."""

from __future__ import annotations

import pytest

from tests.faults.history import PipelineRun
from tests.faults.invariants import judge
from tests.faults.kept_alive import kept_alive
from tests.faults.peers import WORK, Peers, Sent, step


@pytest.mark.parametrize("how", ["kill", "memory"])
def test_m2_what_took_its_worker_or_all_memory_has_the_next_worker_to_itself(peers: Peers, how: str) -> None:
    poison = peers.send(step("work", seconds=0.3, how=how))
    good: list[Sent] = []

    def is_given_up() -> bool:
        peers.cut_rests()
        if peers.broker.backlog(WORK) < 5:  # there is always something it could run beside
            good.append(peers.send(step("work", seconds=0.2)))
        return bool(peers.letters(poison))

    with kept_alive(peers, 1, MAX_ATTEMPTS="3"):
        peers.until(is_given_up, "the poison to be given up", 90)
        peers.until_settled(90)

    runs = peers.runs()
    _, *suspected = (run for run in runs if run.image_id == poison.image_id)
    assert len(suspected) == 2
    assert [beside(run, runs) for run in suspected] == [[], []]
    # Not for want of others: the same processes ran them before or after it.
    assert {run.pid for run in suspected} <= {run.pid for run in runs if run.image_id != poison.image_id}
    assert {peers.tally(each).effects for each in good} == {1}
    assert {peers.tally(each).letters for each in good} == {0}
    judge(peers)


def beside(run: PipelineRun, runs: list[PipelineRun]) -> list[PipelineRun]:
    """The other runs of the same process that overlapped with it."""
    others = (it for it in runs if it is not run and it.pid == run.pid)
    return [it for it in others if it.start < run.end and it.end > run.start]
