"""`mlworker submit`: checked here, published as the backend would."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from uuid import UUID

import pytest

from consumer.broker import Delivery
from consumer.broker.pubsub import Endpoint
from consumer.broker.subscriber import PubSubSubscriber
from consumer.decode import Decoder
from consumer.jobs import Job
from consumer.local.pubsub import EmbeddedPubSub
from consumer.presets import load_presets
from consumer.routes import Routes
from tests.command import mlworker

TOPIC, SUBSCRIPTION = "projects/nursery/topics/requests", "projects/nursery/subscriptions/work"
IMAGE = "gs://photos/acme/originals/1.jpg"


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedPubSub]:
    with EmbeddedPubSub() as broker:
        broker.create_topic(TOPIC)
        broker.create_subscription(SUBSCRIPTION, TOPIC)
        yield broker


@pytest.fixture
def definition(tmp_path: Path) -> Path:
    file = tmp_path / "count.json"
    # A model that is not packaged: only the worker that gets the message can know its models.
    step = {"type": "step", "name": "detection", "kwargs": {"model": "of_our_own"}}
    file.write_text(json.dumps({"steps": [step, {"type": "step", "name": "count"}]}))
    return file


def submit(
    pipeline: Path, *options: str, tenant: str = "acme", image: str = IMAGE, **variables: str
) -> CompletedProcess[str]:
    return mlworker(
        "submit", "--tenant", tenant, "--image", image, "--pipeline", pipeline, *options, **variables
    )


def configured(broker: EmbeddedPubSub) -> dict[str, str]:
    return environment(broker.address)


def environment(broker: str) -> dict[str, str]:
    return {
        "GOOGLE_CLOUD_PROJECT": "nursery", "REQUESTS_TOPIC": "requests", "PUBSUB_EMULATOR_HOST": broker,
    }  # fmt: skip


def pulled(broker: EmbeddedPubSub) -> Delivery:
    async def pull() -> Delivery:
        subscriber = PubSubSubscriber(SUBSCRIPTION, Endpoint(emulator=broker.address))
        [delivery] = await subscriber.pull(10)
        await subscriber.acknowledge([delivery.ack_id])
        await subscriber.close()
        return delivery

    return asyncio.run(pull())


def decoded(delivery: Delivery) -> Job:
    job = Decoder(load_presets(), Routes(), 10_000_000).decode(delivery)
    assert isinstance(job, Job)
    return job


def test_the_message_arrives_and_decodes(broker: EmbeddedPubSub, definition: Path) -> None:
    done = submit(definition, **configured(broker))

    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    delivery = pulled(broker)
    job = decoded(delivery)
    assert delivery.message_id == said["message_id"]
    assert job.ids.tenant_id == "acme"
    assert (job.ids.session_id, job.ids.image_id) == (UUID(said["session_id"]), UUID(said["image_id"]))
    assert job.source.url == IMAGE
    assert [step.name for step in job.definition.steps] == ["detection", "count"]  # type: ignore[union-attr]
    assert (job.warnings, dict(delivery.attributes)) == ((), {})


def test_options_tell_what_the_environment_does_not(broker: EmbeddedPubSub, definition: Path) -> None:
    session, image_id = "550e8400-e29b-41d4-a716-446655440000", "660e8400-e29b-41d4-a716-446655440001"
    done = submit(
        definition, "--project", "nursery", "--topic", TOPIC, "--emulator", broker.address, "--force",
        "--session", session, "--image-id", image_id, "--callback-url", "https://backend.example/results",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    delivery = pulled(broker)
    job = decoded(delivery)
    assert (str(job.ids.session_id), str(job.ids.image_id)) == (session, image_id)
    assert job.callback_url == "https://backend.example/results"
    assert delivery.attributes["mlworker-force"] == "1"


def test_a_wrong_pipeline_is_not_sent(broker: EmbeddedPubSub, tmp_path: Path) -> None:
    (tmp_path / "wrong.json").write_text(
        json.dumps(
            {"steps": [{"type": "step", "name": "segmentaton"}, {"type": "step", "name": "size_calculator"}]}
        )
    )
    done = submit(tmp_path / "wrong.json", **configured(broker))

    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("pipeline_definition.steps.0.name: no step is named 'segmentaton'; did you mean")
    assert second.startswith("pipeline_definition.steps.1: size_calculator needs Detections")
    assert broker.backlog(SUBSCRIPTION) == 0


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"tenant": "no/slash"}, "tenant_id"),
        ({"tenant": "models"}, "tenant_id"),
        ({"image": "https://elsewhere/1.jpg"}, "image_url"),
        ({"image": "gs://photos/acme/../other/x.jpg"}, "image_url"),
    ],
)
def test_wrong_options_are_told_by_their_place_in_the_message(
    broker: EmbeddedPubSub, definition: Path, changed: dict[str, str], path: str
) -> None:
    done = submit(definition, **configured(broker), **changed)

    assert done.returncode == 2
    assert done.stderr.startswith(f"{path}: ")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 300 + b"]" * 300])
def test_a_file_that_holds_no_pipeline_is_bad_input(
    broker: EmbeddedPubSub, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "file.json").write_bytes(content)
    done = submit(tmp_path / "file.json", **configured(broker))

    assert done.returncode == 2
    assert "pipeline" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_file_is_bad_input(broker: EmbeddedPubSub, tmp_path: Path) -> None:
    done = submit(tmp_path / "missing.json", **configured(broker))

    assert (done.returncode, done.stderr.count("missing.json")) == (2, 1)


def test_every_missing_variable_is_named(definition: Path) -> None:
    both, one = submit(definition), submit(definition, GOOGLE_CLOUD_PROJECT="nursery")

    assert (both.returncode, one.returncode) == (2, 2)
    assert both.stderr == (
        "GOOGLE_CLOUD_PROJECT (or --project): required\nREQUESTS_TOPIC (or --topic): required\n"
    )
    assert one.stderr == "REQUESTS_TOPIC (or --topic): required\n"


def test_a_broker_that_cannot_be_reached_is_a_failure_without_a_traceback(definition: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        port = nobody.getsockname()[1]
        started = time.monotonic()
        done = submit(definition, "--timeout", "1", **environment(f"127.0.0.1:{port}"))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"publish to {TOPIC}: UNAVAILABLE")
    assert len(done.stderr.splitlines()) == 1
    assert time.monotonic() - started < 15


def test_a_topic_that_does_not_exist_is_for_the_operator(broker: EmbeddedPubSub, definition: Path) -> None:
    done = submit(definition, **{**configured(broker), "REQUESTS_TOPIC": "reqests"})

    assert done.returncode == 2
    assert "projects/nursery/topics/reqests" in done.stderr
    assert "Traceback" not in done.stderr
