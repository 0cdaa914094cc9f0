"""What the judge of repeats is given: what broker, bucket and backend noted, and what was done to them."""

from __future__ import annotations

import json
import math
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from consumer.local.pubsub import Deed, Line
from tests.faults.bucket import Stored, name_of
from tests.faults.chaos import Disturbance
from tests.faults.misbehaving import Exchange, Received
from tests.faults.peers import DEAD, RESULTS, WORK
from tests.faults.soak_windows import Account, Blow, Held, Leg, Said, Why
from tests.faults.worker import Worker

DRAIN_SECONDS = 10.0
"""`DRAIN_TIMEOUT` of the workers: what is not done by then is handed back."""
FIRST_LEASE_SECONDS = 10.0
"""The subscription's own ack deadline: so long a lease may last that is never extended."""
STALL_SECONDS = 1.0
_MOMENT = 0.25
"""Between doing what is asked and the arrival of the answer."""


@dataclass(frozen=True)
class Ended:
    """The end of a worker's process."""

    alive: float
    """When it was last seen alive."""
    at: float
    """When it was first seen dead."""
    code: int


@dataclass
class Witness:
    """Looks at the workers again and again: when did each end, and when did nobody get to run?

    Args:
        workers: all that were ever started.
    """

    workers: Sequence[Worker]
    ended: dict[int, Ended] = field(default_factory=dict)
    stalls: list[tuple[float, float]] = field(default_factory=list)
    """When even looking took too long: the machine was busy with something else."""
    _looked: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        """Do it; as often as the judgement shall be sharp."""
        now = time.monotonic()
        if now - self._looked > STALL_SECONDS:
            self.stalls.append((self._looked, now))
        for worker in list(self.workers):
            if worker.pid not in self.ended and not worker.alive:
                self.ended[worker.pid] = Ended(self._looked, now, worker.popen.returncode)
        self._looked = now


@dataclass(frozen=True)
class Evidence:
    """The accounts of all, with times of the monotonic clock."""

    lines: Sequence[Line]
    """Of the broker."""
    writes: Sequence[Stored]
    """Of the bucket."""
    calls: Sequence[Exchange]
    """Of the backend."""
    refused: Sequence[Received]
    """What the bucket was told to refuse."""
    disturbances: Sequence[Disturbance]
    ended: Mapping[int, Ended]
    stalls: Sequence[tuple[float, float]]

    def account(self) -> Account:
        """Return it as the judge wants it."""
        return Account(
            said=[*self._published(), *self._called()],
            held=self._held(),
            marked=self._marked(),
            blows=[*self._blows()],
            refused=self._refused(),
            expired=self._expired(),
        )

    def _published(self) -> Iterator[Said]:
        for line in self.lines:
            if line.deed is not Deed.PUBLISHED:
                continue
            said = line.message.attributes
            if line.where == RESULTS:
                heard = not self._amid(line.at, "results refused", "broker away")
                yield Said(Leg.RESULT, said["result_id"], said["result_id"], line.at, heard)
            elif line.where == DEAD:
                heard = not self._amid(line.at, "broker away")
                job = said.get("mlworker-result-id", "")
                yield Said(Leg.LETTER, said["mlworker-source-message-id"], job, line.at, heard)

    def _called(self) -> Iterator[Said]:
        for call in self.calls:
            if call.fault is None or call.fault.applied:
                key, at = call.request.headers["idempotency-key"], call.request.at
                heard = call.fault is None and not self._amid(at, "backend away")
                yield Said(Leg.CALLBACK, key, key, at, heard)

    def _amid(self, at: float, *names: str) -> bool:
        return any(d.name in names and d.start - _MOMENT <= at <= d.end for d in self.disturbances)

    def _held(self) -> Mapping[str, Sequence[Held]]:
        held = defaultdict(list)
        for stored in self.writes:
            job, ending = _job_of(stored.name)
            if ending == "claim":
                body = json.loads(stored.data)
                if body["state"] in ("waiting", "running"):
                    pid = int(body["owner"].split("/")[-2])
                    held[job].append(Held(pid, body["message_id"], stored.at))
        return held

    def _marked(self) -> Mapping[tuple[Leg, str], float]:
        marked: dict[tuple[Leg, str], float] = {}
        for stored in self.writes:
            job, ending = _job_of(stored.name)
            for leg in _legs_done(ending, stored):
                marked.setdefault((leg, job), stored.at)
        return marked

    def _refused(self) -> Mapping[str, Sequence[float]]:
        refused = defaultdict(list)
        for request in self.refused:
            job, ending = _job_of(name_of(request))
            if ending in ("claim", "failed"):
                refused[job].append(request.at)
        return refused

    def _expired(self) -> Mapping[str, Sequence[float]]:
        """Leases that a fault ended. One that ended without any was not kept, which excuses nothing."""
        expired = defaultdict(list)
        for line in self.lines:
            if line.deed is Deed.EXPIRED and line.where == WORK and self._is_a_faults(line.at):
                expired[line.message.id].append(line.at)
        return expired

    def _is_a_faults(self, end_of_lease: float) -> bool:
        return any(
            d.name in ("leases end", "broker away", "acks lost", "SIGSTOP")
            and d.start <= end_of_lease <= d.end + FIRST_LEASE_SECONDS
            for d in self.disturbances
        )

    def _blows(self) -> Iterator[Blow]:
        for disturbance in self.disturbances:
            if disturbance.name == "SIGSTOP":
                yield Blow(Why.STOOD_STILL, disturbance.pid, disturbance.start, disturbance.end)
        for pid, ended in self.ended.items():
            told = [d.start for d in self.disturbances if d.name == "SIGTERM" and d.pid == pid]
            # A drain loses nothing, unless its time was over or a second signal cut it short. And a worker
            # that ended without being told to excuses nothing.
            was_cut_short = len(told) > 1 or ended.at - min(told, default=math.inf) >= DRAIN_SECONDS
            if ended.code == -signal.SIGKILL or was_cut_short:
                yield Blow(Why.LOST, pid, ended.alive)
        for start, end in self.stalls:
            yield Blow(Why.STOOD_STILL, None, start, end)


def _job_of(name: str) -> tuple[str, str]:
    """The job that an object of the ledger is about, and what it is; nothing of any other object."""
    *_, folder, _, _, last = ("", "", "", "", *name.split("/"))
    job, _, ending = last.partition(".")
    return (job, ending) if folder == "results" else ("", "")


def _legs_done(ending: str, stored: Stored) -> Iterable[Leg]:
    if ending == "claim" and json.loads(stored.data)["state"] == "done":
        return (Leg.RESULT, Leg.CALLBACK)
    if ending != "failed":
        return ()
    metadata = stored.metadata
    if metadata.get("done") == "1":
        return Leg
    names = {"dead-lettered": Leg.LETTER, "published": Leg.RESULT, "called-back": Leg.CALLBACK}
    return [names[name] for name in metadata.get("legs", "").split(",") if name in names]
