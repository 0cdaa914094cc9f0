"""Ten of the faults again, on Google's own emulator: what they prove does not hang on our broker."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from google.api_core import exceptions as api
from google.pubsub_v1 import types
from google.pubsub_v1.services.publisher import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from consumer.broker.pubsub import Endpoint
from consumer.local.resources import Resources, create_resources
from tests.faults.backend import FaultyBackend
from tests.faults.bucket import BucketServer
from tests.faults.history import PipelineRun, read_runs
from tests.faults.peers import BUCKET, PHOTO, TENANT, lasts, small_jpeg, step
from tests.faults.proxy import Proxy
from tests.faults.worker import Worker
from tests.plugins import install

pytestmark = [pytest.mark.emulator, pytest.mark.timeout(240)]

_projects = itertools.count(1)
_PATIENCE = 60.0
"""Seconds: the emulator may lease a message to a pull of a worker that was killed, for ten."""


@dataclass
class Site:
    """A project of its own on the emulator, with a bucket and a backend of ours."""

    folder: Path
    address: str
    resources: Resources
    publisher: PublisherClient
    subscriber: SubscriberClient
    bucket: BucketServer
    backend: FaultyBackend
    stack: ExitStack
    results: list[dict[str, Any]] = field(default_factory=list)
    letters: list[types.PubsubMessage] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def worker(self, **changes: str) -> Worker:
        """Start a worker with one slot: while it is taken no pull waits, which the emulator would answer."""
        environment = {
            "GOOGLE_CLOUD_PROJECT": self.resources.project,
            "SUBSCRIPTION": self.resources.worker_subscription,
            "RESULTS_TOPIC": self.resources.results_topic,
            "DEAD_LETTER_TOPIC": self.resources.dead_letter_topic,
            "BUCKET": BUCKET,
            "BACKEND_URL": self.backend.url,
            "BACKEND_CALLBACK_TIMEOUT": "2",
            "PUBSUB_EMULATOR_HOST": self.address,
            "STORAGE_EMULATOR_HOST": self.bucket.url,
            "DEVICES": "simulated",
            "SLOTS": "1",
            "LEASE_SECONDS": "2",
            "DRAIN_TIMEOUT": "10",
            "PYTHONPATH": str(self.folder / "plugins"),
            "FAULTS_RUNS": str(self.folder / "runs"),
            **changes,
        }
        return self.stack.enter_context(Worker.start(self.folder, environment))

    def send(self, *steps: dict[str, Any]) -> str:
        """Publish a request and return its image."""
        body = {
            "tenant_id": TENANT,
            "session_id": str(uuid4()),
            "image_id": str(uuid4()),
            "image_url": f"gs://{BUCKET}/{PHOTO}",
            "pipeline_definition": {"steps": list(steps) or [step("work")]},
        }
        return self.publish(body)

    def publish(self, body: dict[str, Any]) -> str:
        topic = self.resources.topic(self.resources.requests_topic)
        message = types.PubsubMessage(data=json.dumps(body).encode())
        self.publisher.publish(request={"topic": topic, "messages": [message]}, timeout=10)
        self.requests.append(body["image_id"])
        return str(body["image_id"])

    def runs(self, image: str) -> list[PipelineRun]:
        return [run for run in read_runs(self.folder / "runs") if run.image_id == image]

    def listen(self) -> None:
        """Take what was published to the results and dead-letter topics."""
        self.results += [json.loads(message.data) for message in self._take("results")]
        self.letters += self._take("dead-letters")

    def until(self, condition: Callable[[], Any], what: str, seconds: float = _PATIENCE) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
            time.sleep(0.05)

    def until_effective(self, *images: str) -> None:
        """Wait until each of these has had its effect at the backend."""
        self.until(
            lambda: all(self.backend.effects_of(image) for image in images), "every callback to take effect"
        )

    def judge(self, *images: str, runs: int = 1, results: int = 1, calls: int = 1, letters: int = 0) -> None:
        """Assert that each was done, once, under one id, and that nothing is left on the subscription.

        Args:
            images: whose requests.
            runs: how often a pipeline may have run for each.
            results: how many results may have been published for each.
            calls: how many callbacks may have been made for each.
            letters: how many dead letters there are in all.
        """
        assert self._take("worker") == [], "a message is left on the subscription"
        self.listen()
        for image in images:
            said = [result for result in self.results if result["image_id"] == image]
            received = self.backend.received(image)
            keys = {r["result_id"] for r in said} | {r.headers["idempotency-key"] for r in received}
            assert len(keys) == 1
            assert len(self.backend.effects_of(image)) == 1
            assert 1 <= len(self.runs(image)) <= runs
            assert 1 <= len(said) <= results
            assert 1 <= len(received) <= calls
        assert len(self.letters) == letters

    def _take(self, subscription: str) -> list[types.PubsubMessage]:
        name, found = self.resources.subscription(subscription), []
        while True:
            try:
                answer = self.subscriber.pull(request={"subscription": name, "max_messages": 100}, timeout=1)
            except api.DeadlineExceeded:
                return found
            if not answer.received_messages:
                return found
            found += [received.message for received in answer.received_messages]
            ids = [received.ack_id for received in answer.received_messages]
            self.subscriber.acknowledge(request={"subscription": name, "ack_ids": ids}, timeout=10)


@pytest.fixture
def site(google_emulator: str, tmp_path: Path) -> Iterator[Site]:
    resources = Resources(project=f"faults{next(_projects)}")
    endpoint = Endpoint(emulator=google_emulator).ready()
    create_resources(resources, endpoint)
    install(tmp_path / "plugins", (Path(__file__).parent / "steps.py").read_text(), name="faulty_steps")
    channel = endpoint.connect()
    with ExitStack() as stack:
        stack.callback(channel.close)
        bucket = stack.enter_context(BucketServer(BUCKET))
        backend = stack.enter_context(FaultyBackend())
        bucket.put(PHOTO, small_jpeg())
        publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        yield Site(tmp_path, google_emulator, resources, publisher, subscriber, bucket, backend, stack)


def end(*workers: Worker) -> None:
    """Let workers drain, so that nothing they hold is mistaken for something lost."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        assert worker.ended() == 0, worker.tail()


@pytest.mark.parametrize(
    ("point", "runs", "results", "calls"),
    [("run", 2, 1, 1), ("recorded", 1, 1, 1), ("published", 1, 2, 1), ("called_back", 1, 2, 2)],
)
def test_a_worker_killed_on_the_way(site: Site, point: str, runs: int, results: int, calls: int) -> None:
    image = site.send()
    assert site.worker(FAILPOINTS=f"{point}=kill").ended(60) == -signal.SIGKILL
    heir = site.worker().until_ready()
    site.until(lambda: len(site.backend.received(image)) == calls, "every callback to be made")
    end(heir)

    site.judge(image, runs=runs, results=results, calls=calls)


def test_a_worker_killed_after_its_dead_letter(site: Site) -> None:
    image = site.send(step("work", how="permanent"))
    assert site.worker(FAILPOINTS="dead_lettered=kill").ended(60) == -signal.SIGKILL
    heir = site.worker()
    site.until_effective(image)
    end(heir)

    site.judge(image, letters=2)
    assert {letter.attributes["mlworker-source-message-id"] for letter in site.letters} == {
        site.letters[0].attributes["mlworker-source-message-id"]
    }


def test_the_same_request_twice_for_two_workers(site: Site) -> None:
    workers = [site.worker().until_ready(), site.worker().until_ready()]
    image = str(uuid4())
    body = {
        "tenant_id": TENANT,
        "session_id": str(uuid4()),
        "image_id": image,
        "image_url": f"gs://{BUCKET}/{PHOTO}",
        "pipeline_definition": {"steps": [step("work", seconds=1)]},
    }
    site.publish(body)
    site.publish(body)
    site.until_effective(image)
    site.until(
        lambda: sum(worker.metric("mlworker_messages_total") for worker in workers) == 2,
        "both to be settled",
    )
    end(*workers)

    site.judge(image)


@pytest.mark.parametrize(("status", "calls", "letters"), [(503, 2, 0), (422, 2, 1)])
def test_a_backend_that_answers(site: Site, status: int, calls: int, letters: int) -> None:
    site.backend.misbehave(status=status, times=1)
    image = site.send()
    worker = site.worker()
    site.until_effective(image)
    end(worker)

    site.judge(image, calls=calls, letters=letters)


def test_a_worker_told_to_end_hands_its_work_to_another(site: Site) -> None:
    gate = site.folder / "gate"
    image = site.send(step("work", gate=str(gate)))
    first = site.worker(DRAIN_MODE="abort")
    site.until(lambda: site.runs(image), "it to run")
    second = site.worker().until_ready()
    end(first)
    site.until(lambda: len(site.runs(image)) == 2, "it to run again")
    gate.touch()
    site.until_effective(image)
    end(second)

    site.judge(image, runs=2)


def test_a_worker_frozen_for_longer_than_its_lease(site: Site) -> None:
    image = site.send(step("work", seconds=1))
    frozen = site.worker()
    site.until(lambda: site.runs(image), "it to run")
    frozen.freeze()
    other = site.worker()
    site.until_effective(image)
    frozen.thaw()
    lasts(2)
    end(frozen, other)

    site.judge(image, runs=2)


def test_connections_that_are_cut(site: Site) -> None:
    line = site.stack.enter_context(Proxy(site.address))
    worker = site.worker(PUBSUB_EMULATOR_HOST=line.address).until_ready()
    images = []
    for _ in range(4):
        images.append(site.send(step("work", seconds=0.5)))
        site.until(lambda: site.runs(images[-1]), "it to run")
        line.reset()
    site.until_effective(*images)
    end(worker)

    site.judge(*images, results=2)
