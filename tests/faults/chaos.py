"""Random faults, one after the other, from one seed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from grpc import StatusCode

from tests.faults.misbehaving import Received
from tests.faults.peers import RESULTS, WORK, Peers
from tests.faults.worker import Worker


@dataclass(frozen=True)
class Disturbance:
    """A fault that was made, in seconds since the beginning."""

    name: str
    start: float
    end: float
    pid: int | None = None
    """Of the worker that it hit, if it hit one."""


@dataclass
class Chaos:
    """Disturbs for as long as it is told to.

    Args:
        peers: whom.
        workers: those that run; the first is killed by poison only, so that one may live for long.
        seed: of every choice.
    """

    peers: Peers
    workers: Sequence[Worker]
    seed: int
    disturbances: list[Disturbance] = field(default_factory=list)
    refused: list[Received] = field(default_factory=list)
    """What the bucket was asked while it refused."""
    kills: int = 0
    began: float = field(default_factory=time.monotonic)

    def run(self, over: threading.Event) -> None:
        """Make one fault after the other until told that it is over; what is broken then is mended."""
        chance = random.Random(self.seed)
        acts: list[tuple[int, str, Callable[[random.Random, threading.Event], int | None]]] = [
            (5, "kill -9", self._kill),
            (2, "SIGTERM", self._terminate),
            (3, "SIGSTOP", self._freeze),
            (2, "broker away", self._broker_away),
            (3, "backend away", self._backend_away),
            (2, "backend refuses", self._backend_refuses),
            (2, "answers lost", self._answers_lost),
            (2, "bucket refuses", self._bucket_refuses),
            (2, "results refused", self._results_refused),
            (2, "leases end", self._leases_end),
            (1, "acks lost", self._acks_lost),
        ]
        while not over.wait(chance.uniform(1.0, 4.0)):
            [(_, name, act)] = chance.choices(acts, [weight for weight, _, _ in acts])
            start = time.monotonic() - self.began
            pid = act(chance, over)
            self.disturbances.append(Disturbance(name, start, time.monotonic() - self.began, pid))

    def _kill(self, chance: random.Random, over: threading.Event) -> int:
        worker = chance.choice(self.workers[1:])
        if worker.alive:
            worker.popen.kill()
            self.kills += 1
        return worker.pid

    def _terminate(self, chance: random.Random, over: threading.Event) -> int:
        worker = chance.choice(self.workers[1:])
        if worker.alive:
            worker.terminate()
        return worker.pid

    def _freeze(self, chance: random.Random, over: threading.Event) -> int:
        worker = chance.choice(self.workers)
        worker.freeze()
        over.wait(chance.uniform(1.0, 8.0))
        worker.thaw()
        return worker.pid

    def _broker_away(self, chance: random.Random, over: threading.Event) -> None:
        broker = self.peers.broker
        port = int(broker.address.rsplit(":", 1)[1])
        broker.stop()
        over.wait(chance.uniform(0.5, 6.0))
        broker.start(port)

    def _backend_away(self, chance: random.Random, over: threading.Event) -> None:
        self.peers.backend.stop()
        over.wait(chance.uniform(1.0, 8.0))
        self.peers.backend.start()

    def _backend_refuses(self, chance: random.Random, over: threading.Event) -> None:
        with self.peers.backend.misbehave(status=chance.choice([401, 429, 500, 503])):
            over.wait(chance.uniform(0.5, 3.0))

    def _answers_lost(self, chance: random.Random, over: threading.Event) -> None:
        with self.peers.backend.misbehave(cut=chance.choice(["reset", "close"]), applied=True):
            over.wait(chance.uniform(0.5, 2.0))

    def _bucket_refuses(self, chance: random.Random, over: threading.Event) -> None:
        def note(request: Received) -> bool:
            self.refused.append(request)
            return True

        with self.peers.bucket.misbehave(
            only=note, status=chance.choice([429, 500, 503]), applied=chance.choice([True, False])
        ):
            over.wait(chance.uniform(0.5, 3.0))

    def _results_refused(self, chance: random.Random, over: threading.Event) -> None:
        status = chance.choice([StatusCode.NOT_FOUND, StatusCode.UNAVAILABLE])
        applied = status is StatusCode.UNAVAILABLE and chance.choice([True, False])
        with self.peers.broker.fail(
            "Publish", status, applied=applied, only=lambda request: request.topic == RESULTS
        ):
            over.wait(chance.uniform(0.5, 3.0))

    def _leases_end(self, chance: random.Random, over: threading.Event) -> None:
        self.peers.broker.end_leases(WORK)

    def _acks_lost(self, chance: random.Random, over: threading.Event) -> None:
        with self.peers.broker.fail(
            "Acknowledge", StatusCode.UNAVAILABLE, applied=chance.choice([True, False])
        ):
            over.wait(chance.uniform(0.5, 2.0))
