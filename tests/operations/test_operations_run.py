"""docs/operations.md: what says it runs is run, in one shell, with servers in the place of Google's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from consumer.broker import Delivery
from consumer.decode import Decoder
from consumer.jobs import Job
from consumer.local.pubsub import Deed, EmbeddedPubSub, Journal
from consumer.outbound.dead_letter import as_attributes
from consumer.presets import load_presets
from consumer.routes import Routes
from contracts.dead_letter import DeadLetterAttributes
from tests.command import ROOT, bare_environment
from tests.faults.bucket import BucketServer
from tests.faults.peers import small_jpeg
from tests.operations.document import blocks, exported
from tests.operations.manifest import cloud, needs_kubectl

RUN = [block for block in blocks() if block.language == "sh" and block.tag == "runs"]
PHOTOS, LETTERS = 5, 3


@dataclass(frozen=True)
class Ground:
    """A copy of the repository, and servers in the place of Google's."""

    folder: Path
    journal: Journal
    broker: EmbeddedPubSub
    bucket: BucketServer
    names: dict[str, str]

    def topic(self, name: str) -> str:
        return f"projects/{self.names['PROJECT']}/topics/{name}"

    def subscription(self, name: str) -> str:
        return f"projects/{self.names['PROJECT']}/subscriptions/{name}"

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the blocks, one after the other, until one fails."""
        script = "".join(f"echo '== line {block.line}' >&2\n{block.text}" for block in RUN)
        environment = bare_environment(
            PUBSUB_EMULATOR_HOST=self.broker.address, STORAGE_EMULATOR_HOST=self.bucket.url
        )
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def requests(self) -> list[Job]:
        """What was published for the workers, as they read it."""
        decoder = Decoder(load_presets(), Routes(), 10_000_000)
        jobs = []
        for line in self.journal.lines(Deed.PUBLISHED, where=self.topic("mlworker-requests")):
            said = line.message
            delivery = Delivery("", said.id, said.data, dict(said.attributes), datetime.now(UTC), None)
            job = decoder.decode(delivery)
            assert isinstance(job, Job)
            jobs.append(job)
        return jobs


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    names = exported(RUN[0].text)
    journal = Journal()
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    (tmp_path / "contracts").symlink_to(ROOT / "contracts")
    (tmp_path / "models").symlink_to(ROOT / "consumer/local/models")
    with EmbeddedPubSub(journal=journal) as broker, BucketServer(names["PHOTOS"]) as bucket:
        ground = Ground(tmp_path, journal, broker, bucket, names)
        for topic in cloud("PubSubTopic"):
            broker.create_topic(ground.topic(topic["metadata"]["name"]))
        for one in cloud("PubSubSubscription"):
            broker.create_subscription(
                ground.subscription(one["metadata"]["name"]),
                ground.topic(one["spec"]["topicRef"]["name"]),
                ack_deadline_seconds=one["spec"]["ackDeadlineSeconds"],
            )
        for number in range(PHOTOS):
            bucket.put(f"acme/originals/{number}.jpg", small_jpeg())
        for number in range(LETTERS):
            die(ground, f"gs://{names['PHOTOS']}/acme/originals/{number}.jpg", number)
        yield ground


def die(ground: Ground, photo: str, number: int) -> None:
    """Give a request up, as a worker does whose photo was not there."""
    body = {
        "tenant_id": "acme",
        "session_id": "550e8400-e29b-41d4-a716-446655440000",
        "image_id": f"660e8400-e29b-41d4-a716-44665544000{number}",
        "image_url": photo,
        "pipeline_definition": {"steps": [{"type": "step", "name": "count"}]},
        "settings": {},
    }
    now = datetime.now(UTC)
    why = DeadLetterAttributes.model_validate({
        "error_code": "object_missing",
        "error_class": "permanent",
        "error_message": f"{photo}: no such object",
        "step_path": "",
        "attempts": 1,
        "source_subscription": ground.subscription("mlworker-requests"),
        "source_message_id": f"source-{number}",
        "source_publish_time": now,
        "worker_version": "0.1.0",
        "failed_at": now,
    })  # fmt: skip
    ground.broker.publish(
        ground.topic("mlworker-dead-letters"), json.dumps(body).encode(), **as_attributes(why)
    )


# Less than a minute where the machine does nothing else: each look at dead letters takes 5 s.
@needs_kubectl
@pytest.mark.timeout(600)
def test_what_says_it_runs_does_what_the_document_says(ground: Ground) -> None:
    done = ground.run()
    names, said = ground.names, f"{done.stdout}\n{done.stderr}"

    assert done.returncode == 0, said
    jobs = ground.requests()
    images = {job.ids.image_id for job in jobs}
    image = f"{names['REGION']}-docker.pkg.dev/{names['PROJECT']}/mlworker/mlworker:{names['VERSION']}"
    assert f"image: {image}" in done.stdout
    assert "no message has changed" in done.stdout
    # One by submit, each photo by backfill once, and each dead letter replayed once.
    assert len(jobs) == len(images) == 1 + PHOTOS + LETTERS
    assert {job.ids.tenant_id for job in jobs} == {"acme"}
    assert ground.broker.backlog(ground.subscription("mlworker-dead-letters")) == 0
    assert ground.broker.backlog(ground.subscription("mlworker-requests")) == 1 + PHOTOS + LETTERS
    assert (ground.folder / "dead-letters-audit.jsonl").exists()
