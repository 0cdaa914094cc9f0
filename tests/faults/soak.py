"""Thousands of messages of mixed kinds, three workers, random faults; then the accounts are compared.

`python -m tests.faults.soak --minutes 3 --seed 7`; `make soak` writes the figures into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from consumer.local.pubsub import Deed
from tests.faults.chaos import Chaos, Disturbance
from tests.faults.invariants import broken_promises
from tests.faults.kept_alive import kept_alive
from tests.faults.peers import BUCKET, REQUESTS, RESULTS, WORK, Peers, Sent, open_peers, small_jpeg, step
from tests.faults.soak_evidence import Evidence, Witness
from tests.faults.soak_report import write_report
from tests.faults.worker import Worker

WORKERS, SLOTS, LEASE = 3, 4, 4
BACKLOG = 60
"""Requests that wait at most: the rate is what the workers can do."""
SETTLE_SECONDS = 240.0
ROUTES = """
routes:
  - bucket: photos
    prefix: "{tenant_id}/camera/"
    pipeline: {steps: [{type: step, name: work}]}
"""


@dataclass
class Load:
    """What is published, and how each request should end.

    Args:
        peers: to whom.
        seed: of every choice.
    """

    peers: Peers
    seed: int
    delivered: dict[str, str] = field(default_factory=dict)
    """Requests that should be delivered: kind by image."""
    given_up: dict[str, str] = field(default_factory=dict)
    """Messages that should be dead letters: kind by message."""
    announced: dict[str, int] = field(default_factory=dict)
    """Photos the bucket announced: generation by name."""

    def run(self, over: threading.Event) -> None:
        """Publish until told that it is over."""
        chance = random.Random(self.seed + 1)
        while not over.wait(0.02):
            while self.peers.broker.backlog(WORK) < BACKLOG and not over.is_set():
                self._publish(chance)

    def _publish(self, chance: random.Random) -> None:
        kinds = {
            "work": 60, "thread": 8, "detect": 12, "keep": 6, "twice": 5, "transient": 3, "photo": 4,
            "permanent": 3, "malformed": 3, "poison": 0.03,
        }  # fmt: skip
        kind = chance.choices(list(kinds), list(kinds.values()))[0]
        seconds = chance.uniform(0.0, 0.1)
        match kind:
            case "malformed":
                data = chance.choice([b"\xff\xfe", b"{broken", b"null", b'{"tenant_id": 1}'])
                self.given_up[self.peers.broker.publish(REQUESTS, data)] = kind
            case "permanent":
                sent = self.peers.send(step("work", how="permanent"))
                self.given_up[sent.message_id] = kind
            case "poison":
                sent = self.peers.send(step("work", how="kill"))
                self.given_up[sent.message_id] = kind
            case "photo":
                photo = self.peers.bucket.put(f"acme/camera/{uuid4()}.jpg", small_jpeg())
                self.announced[photo.name] = photo.generation
                for _ in range(chance.choice([1, 1, 2])):
                    self.peers.notify(photo.name, photo.generation)
            case "twice":
                body = self.peers.request(step("work", seconds=seconds))
                self._expect(kind, self.peers.publish(body), self.peers.publish(body))
            case "transient":
                self._expect(kind, self.peers.send(step("work", how="transient", times=1)))
            case "detect":
                self._expect(kind, self.peers.send(step("work"), step("detection"), step("count")))
            case "keep":
                self._expect(kind, self.peers.send(step("work"), step("keep")))
            case "thread":
                self._expect(kind, self.peers.send(step("work_in_thread", seconds=seconds)))
            case _:
                self._expect(kind, self.peers.send(step("work", seconds=seconds)))

    def _expect(self, kind: str, *sent: Sent) -> None:
        for each in sent:
            self.delivered[each.image_id] = kind


@dataclass
class Sample:
    """How things stood at one moment."""

    at: float
    acked: int
    memory: dict[int, int]
    """Of each worker's process."""


@dataclass
class Findings:
    """What came of it."""

    seed: int
    minutes: float
    samples: list[Sample]
    disturbances: list[Disturbance]
    figures: dict[str, Any]
    broken: list[str]


def soak(minutes: float, seed: int, folder: Path) -> Findings:
    """Run it."""
    (folder / "routes.yaml").write_text(ROUTES)
    changes = {
        "SLOTS": str(SLOTS),
        "LEASE_SECONDS": str(LEASE),
        "ROUTES_FILE": str(folder / "routes.yaml"),
        "BRAKE_DEAD_LETTERS": "0",  # a share of the load is meant to be given up
        "DEVICES": "simulated:fixed=0.005",
    }
    with open_peers(folder) as peers, kept_alive(peers, WORKERS, **changes) as workers:
        peers.bucket.exchanges = deque(maxlen=1000)
        for worker in workers:
            worker.until_ready()
        began, over = time.monotonic(), threading.Event()
        load, chaos = Load(peers, seed), Chaos(peers, workers, seed, began=began)
        witness = Witness(peers.workers)
        samples: list[Sample] = []

        def sample_until(is_over: Callable[[], bool]) -> None:
            while not is_over():
                acked = len(peers.journal.lines(Deed.ACKED, where=WORK))
                samples.append(Sample(time.monotonic() - began, acked, memory_of(workers)))
                for _ in range(20):
                    witness.look()
                    time.sleep(0.05)

        threads = [threading.Thread(target=each.run, args=(over,)) for each in (load, chaos)]
        for thread in threads:
            thread.start()
        try:
            sample_until(lambda: time.monotonic() - began > minutes * 60)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        healed = time.monotonic()
        sample_until(lambda: not peers.broker.backlog(WORK) or time.monotonic() - healed > SETTLE_SECONDS)
        settled = time.monotonic() - healed
        return compared(peers, load, chaos, witness, samples, minutes, settled)


def memory_of(workers: Iterable[Worker]) -> dict[int, int]:
    """Bytes that each worker holds."""
    held = {}
    for worker in workers:
        with suppress(FileNotFoundError, IndexError):  # it was killed
            held[worker.pid] = worker.memory()
    return held


def growth_of(samples: Sequence[Sample]) -> tuple[float, int, float]:
    """Of the worker that lived longest: how much it grew after its first third, its bytes, its seconds."""
    lives = Counter(pid for sample in samples for pid in sample.memory)
    pid, seconds = lives.most_common(1)[0]
    held = [sample.memory[pid] for sample in samples if pid in sample.memory]
    sixth = max(len(held) // 6, 1)
    start, end = held[2 * sixth : 3 * sixth] or held, held[-sixth:]
    return (sum(end) / len(end)) / (sum(start) / len(start)) - 1, held[-1], float(seconds)


def evidence_of(peers: Peers, chaos: Chaos, witness: Witness) -> Evidence:
    """What the judge of repeats is given."""
    return Evidence(
        lines=peers.journal.lines(),
        writes=list(peers.bucket.writes),
        calls=list(peers.backend.exchanges),
        refused=chaos.refused,
        disturbances=[
            replace(each, start=chaos.began + each.start, end=chaos.began + each.end)
            for each in chaos.disturbances
        ],
        ended=witness.ended,
        stalls=witness.stalls,
    )


def compared(
    peers: Peers,
    load: Load,
    chaos: Chaos,
    witness: Witness,
    samples: list[Sample],
    minutes: float,
    settled: float,
) -> Findings:
    """Compare what was published with what became of it."""
    story = peers.story()
    published, acked = story.published(), story.acked()
    letters, results = story.letters(), story.published_results()
    effects = Counter(effect.image_id for effect in peers.backend.effects)
    calls = Counter(received.headers["idempotency-key"] for received in peers.backend.received())
    broken = list(broken_promises(peers, slots=SLOTS))
    for image_id, kind in load.delivered.items():
        ids = {result.result_id for result in results.get(image_id, []) if result.status != "failed"}
        if len(ids) != 1 or effects[image_id] != 1:
            broken.append(f"{kind} {image_id}: {len(ids)} results, {effects[image_id]} effective callbacks")
    wanted = load.given_up.keys()
    broken += [f"{kind} {m}: no dead letter" for m, kind in load.given_up.items() if m not in letters]
    broken += [f"{m}: given up with {letters[m][0].code}" for m in letters if m not in wanted]
    said = Counter(
        json.loads(line.message.data)["image_url"].removeprefix(f"gs://{BUCKET}/")
        for line in peers.journal.lines(Deed.PUBLISHED, where=RESULTS)
    )
    broken += [f"{name}: announced, no result" for name in load.announced if not said[name]]
    account = evidence_of(peers, chaos, witness).account()
    broken += account.unexplained()
    growth, memory, lived = growth_of(samples)
    if growth > 0.2:
        broken.append(f"the worker that lived longest, {lived:g} s, grew by {growth:.0%}")
    sent_results = sum(len(each) for each in results.values())
    figures = {
        "messages published": len(published),
        "acked": len(acked),
        "of them as dead letters": sum(m in acked for m in letters),
        "lost": len(published) - len(acked),
        "distinct requests delivered": sum(1 for image in load.delivered if effects[image] == 1),
        "effective callbacks for each of them": (
            f"{min((effects[i] for i in load.delivered), default=0)} to "
            f"{max((effects[i] for i in load.delivered), default=0)}"
        ),
        "results published again, same id": sent_results - len(results),
        "callbacks sent again after their effect, same key": len(peers.backend.repeats),
        "callbacks refused or lost, and sent again": sum(calls.values())
        - len(calls)
        - len(peers.backend.repeats),
        **{f"{leg} said again after {why}": times for (leg, why), times in sorted(account.counts().items())},
        "pipelines run": len(peers.runs()),
        "kill -9": chaos.kills,
        "all faults": len(chaos.disturbances),
        "messages a second": f"{len(acked) / (minutes * 60 + settled):.0f}",
        "seconds from the last fault to an empty queue": f"{settled:.0f}",
        f"memory of the worker that lived longest, {lived:.0f} s": f"{memory / 1e6:.0f} MB ({growth:+.0%})",
    }
    return Findings(chaos.seed, minutes, samples, chaos.disturbances, figures, broken)


def main() -> int:
    """Soak, print what was found, and return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--write", action="store_true", help="write figures and plot into docs/")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.minutes:g} minutes")
    with tempfile.TemporaryDirectory() as folder:
        findings = soak(options.minutes, options.seed, Path(folder))
    for name, figure in findings.figures.items():
        print(f"{name:68}{figure:>16}")
    for line in findings.broken:
        print("BROKEN:", line)
    if options.write and not findings.broken:
        write_report(findings)
    return 1 if findings.broken else 0


if __name__ == "__main__":
    sys.exit(main())
