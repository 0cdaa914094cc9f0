"""Everything a worker talks to, on this machine and under the test's thumb, and the workers themselves."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image as PillowImage

from consumer.local.pubsub import Deed, EmbeddedPubSub, Journal
from tests.faults.backend import FaultyBackend
from tests.faults.bucket import BucketServer
from tests.faults.history import DeadLetter, PipelineRun, PublishedResult, Story, read_runs
from tests.faults.proxy import Proxy
from tests.faults.worker import Worker
from tests.plugins import install

PROJECT, BUCKET, TENANT = "test", "photos", "acme"
PHOTO = f"{TENANT}/originals/a.jpg"
REQUESTS, RESULTS, DEAD = (
    f"projects/{PROJECT}/topics/{name}" for name in ("requests", "results", "dead-letters")
)
WORK = f"projects/{PROJECT}/subscriptions/work"
DEAD_SUB = f"projects/{PROJECT}/subscriptions/dead-letters"
LEASE = 2
"""Seconds; the shortest a worker can be told to lease for."""
LONGEST_LEASE = 4
"""What asks for more hands a message back, to come again after that time."""
SLOTS = 2


@dataclass(frozen=True)
class Sent:
    """A request that was published."""

    message_id: str
    image_id: str
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Tally:
    """How often each thing happened to one request."""

    runs: int
    results: int
    calls: int
    """Callbacks that arrived at the backend."""
    effects: int
    """Callbacks that changed something there."""
    letters: int


@dataclass
class Peers:
    """Broker, bucket, backend, and the workers that were started."""

    folder: Path
    broker: EmbeddedPubSub
    journal: Journal
    bucket: BucketServer
    backend: FaultyBackend
    resources: ExitStack
    workers: list[Worker] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    _rests_seen: int = 0

    # Workers

    def environment(self, **changes: str) -> dict[str, str]:
        """What a worker is told."""
        return {
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "SUBSCRIPTION": "work",
            "REQUESTS_TOPIC": "requests",
            "RESULTS_TOPIC": "results",
            "DEAD_LETTER_TOPIC": "dead-letters",
            "DEAD_LETTER_SUBSCRIPTION": "dead-letters",
            "BUCKET": BUCKET,
            "BACKEND_URL": self.backend.url,
            "BACKEND_CALLBACK_TIMEOUT": "2",
            "PUBSUB_EMULATOR_HOST": self.broker.address,
            "STORAGE_EMULATOR_HOST": self.bucket.url,
            "DEVICES": "simulated",
            "SLOTS": str(SLOTS),
            "LEASE_SECONDS": str(LEASE),
            "DRAIN_TIMEOUT": "10",
            "PYTHONPATH": os.pathsep.join([str(self.folder / "plugins"), os.environ.get("PYTHONPATH", "")]),
            "FAULTS_RUNS": str(self.runs_file),
            **changes,
        }

    def worker(self, *, memory_limit: int | None = None, reads_log: bool = True, **changes: str) -> Worker:
        """Start a worker; it is killed when the test is over."""
        environment = self.environment(**changes)
        worker = Worker.start(self.folder, environment, memory_limit=memory_limit, reads_log=reads_log)
        self.workers.append(worker)
        self.resources.enter_context(worker)
        return worker

    def proxy(self, target: str) -> Proxy:
        """Put a breakable line in front of `host:port`."""
        return self.resources.enter_context(Proxy(target.removeprefix("http://")))

    # Requests

    def photo(self, name: str = PHOTO, **metadata: str) -> str:
        """Put a small photo into the bucket and return its url."""
        self.bucket.put(name, small_jpeg(), **metadata)
        return f"gs://{BUCKET}/{name}"

    def request(self, *steps: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
        """A request's body: one run of `work`, unless other steps are given."""
        return {
            "tenant_id": TENANT,
            "session_id": str(uuid4()),
            "image_id": str(uuid4()),
            "image_url": f"gs://{BUCKET}/{PHOTO}",
            "pipeline_definition": {"steps": list(steps) or [step("work")]},
            "settings": {},
            **changes,
        }

    def publish(self, body: Mapping[str, Any], **attributes: str) -> Sent:
        """Publish a request."""
        data = json.dumps(body).encode()
        sent = Sent(self.broker.publish(REQUESTS, data, **attributes), str(body["image_id"]), data)
        self.sent.append(sent)
        return sent

    def send(self, *steps: Mapping[str, Any], **changes: Any) -> Sent:
        """Publish a request with these steps."""
        return self.publish(self.request(*steps, **changes))

    def notify(self, name: str, generation: int, event: str = "OBJECT_FINALIZE", **attributes: str) -> str:
        """Publish what a bucket says of one of its objects, and return the message's id."""
        said = {
            "eventType": event,
            "bucketId": BUCKET,
            "objectId": name,
            "objectGeneration": str(generation),
            "payloadFormat": "NONE",
        }
        return self.broker.publish(REQUESTS, b"", **{**said, **attributes})

    def gate(self, name: str = "gate") -> Path:
        """A file that steps wait for; `touch` opens it."""
        return self.folder / name

    # What happened

    @property
    def runs_file(self) -> Path:
        return self.folder / "runs"

    def runs(self, image_id: str | None = None) -> list[PipelineRun]:
        return [run for run in read_runs(self.runs_file) if image_id in (None, run.image_id)]

    def story(self) -> Story:
        return Story(self.journal.lines(), REQUESTS, RESULTS, DEAD, WORK)

    def results(self, sent: Sent) -> list[PublishedResult]:
        return self.story().published_results().get(sent.image_id, [])

    def letters(self, sent: Sent) -> list[DeadLetter]:
        return self.story().letters().get(sent.message_id, [])

    def tally(self, sent: Sent) -> Tally:
        return Tally(
            runs=len(self.runs(sent.image_id)),
            results=len(self.results(sent)),
            calls=len(self.backend.received(sent.image_id)),
            effects=len(self.backend.effects_of(sent.image_id)),
            letters=len(self.letters(sent)),
        )

    def acked(self, sent: Sent) -> bool:
        return sent.message_id in self.story().acked()

    def deliveries(self, sent: Sent) -> int:
        """How often it was leased to a worker."""
        return len(self.story().of(sent.message_id, Deed.LEASED))

    # Waiting

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
        """Wait for a condition, whatever becomes of the workers."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > end:
                logs = "\n".join(f"{worker.pid}: {worker.tail()}" for worker in self.workers[-3:])
                pytest.fail(f"waited {seconds:g} s for {what}\n{logs}")
            time.sleep(0.02)
        return found

    def until_settled(self, seconds: float = 30.0) -> None:
        """Wait until no request is left on the subscription; rests of messages handed back are cut short."""

        def is_settled() -> bool:
            self.cut_rests()
            return self.broker.backlog(WORK) == 0

        self.until(is_settled, f"all {len(self.sent)} requests to be settled", seconds)

    def cut_rests(self, but_of: Collection[str] = ()) -> None:
        """Deliver at once what was handed back to rest for a while: as if that time had passed.

        Args:
            but_of: messages, by id, whose rests stay as they are.
        """
        for rpc in self.broker.calls("ModifyAckDeadline")[self._rests_seen :]:
            self._rests_seen += 1
            if rpc.seconds is not None and rpc.seconds > LONGEST_LEASE:
                resting = {message_id_of(ack_id) for ack_id in rpc.ack_ids} - set(but_of)
                self.broker.end_leases(WORK, lambda message, resting=resting: message.id in resting)

    def until_running(self, sent: Sent, runs: int = 1, seconds: float = 30.0) -> None:
        """Wait until a pipeline runs for this request."""
        self.until(lambda: len(self.runs(sent.image_id)) >= runs, f"run {runs} of it to begin", seconds)


@contextmanager
def open_peers(folder: Path, *, deduplicates: bool = True, **subscription: Any) -> Iterator[Peers]:
    """Start broker, bucket and backend.

    Args:
        folder: empty; for logs and accounts.
        deduplicates: whether the backend knows a key again.
        subscription: fields of the workers' subscription.
    """
    source = (Path(__file__).parent / "steps.py").read_text()
    install(folder / "plugins", source, name="faulty_steps")
    journal = Journal()
    with ExitStack() as resources:
        broker = resources.enter_context(EmbeddedPubSub(journal=journal))
        bucket = resources.enter_context(BucketServer(BUCKET))
        backend = resources.enter_context(FaultyBackend(deduplicates=deduplicates))
        for topic in (REQUESTS, RESULTS, DEAD):
            broker.create_topic(topic)
        broker.create_subscription(WORK, REQUESTS, ack_deadline_seconds=10, **subscription)
        broker.create_subscription(DEAD_SUB, DEAD, ack_deadline_seconds=600)
        peers = Peers(folder, broker, journal, bucket, backend, resources)
        peers.photo()
        # Faults are lifted before anything is stopped, so that nothing hangs on them.
        resources.callback(lambda: (broker.heal(), bucket.heal(), backend.heal()))
        yield peers


ONCE = Tally(runs=1, results=1, calls=1, effects=1, letters=0)
"""What happens to a request that nothing disturbs."""


def lasts(seconds: float) -> None:
    """Let a fault last for so long: it is its length that is tested."""
    time.sleep(seconds)


def step(name: str, **kwargs: Any) -> dict[str, Any]:
    """One element of a pipeline."""
    return {"type": "step", "name": name, "kwargs": kwargs}


def message_id_of(ack_id: str) -> str:
    """The message a lease was of, as the embedded server names leases."""
    return ack_id.rsplit(":", 2)[1]


@lru_cache
def small_jpeg() -> bytes:
    buffer = BytesIO()
    PillowImage.fromarray(np.full((48, 64, 3), 120, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()
