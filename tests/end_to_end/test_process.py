"""The worker as operators run it, with Google's emulator and a bucket whose uploads are announced."""

from __future__ import annotations

import asyncio
import io
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
from PIL import Image

from consumer.broker import Delivery
from consumer.broker.publisher import PubSubPublisher
from consumer.broker.pubsub import Endpoint
from consumer.broker.subscriber import PubSubSubscriber
from consumer.local.resources import Resources, create_resources
from consumer.local.scenes import demo_photo
from contracts.builders import pipeline, step
from contracts.result import ProcessingResult
from tests.end_to_end.process import Process, recording_backend, running
from tests.end_to_end.site import Backend
from tests.peers import fake_gcs_server, make_gcs_bucket
from tests.plugins import HOLD, install

pytestmark = pytest.mark.emulator

BUCKET = "photos"
ROUTES = f"""
routes:
  - bucket: {BUCKET}
    prefix: "{{tenant_id}}/originals/"
    pipeline:
      steps:
        - {{type: step, name: detection}}
        - {{type: step, name: count}}
        - {{type: step, name: visualize_detections}}
        - {{type: step, name: upload_image, kwargs: {{source: processed}}}}
        - {{type: step, name: upload_image, kwargs: {{dest_prefix: originals}}}}
"""


@dataclass(frozen=True)
class Peers:
    """Everything the worker talks to, and what it is told of it."""

    folder: Path
    resources: Resources
    endpoint: Endpoint
    storage: str
    backend: Backend
    environment: dict[str, str]

    def publish(self, body: dict[str, Any]) -> str:
        async def send() -> str:
            publisher = PubSubPublisher(self.resources.project, self.endpoint)
            try:
                return await publisher.publish(self.resources.requests_topic, orjson.dumps(body), {})
            finally:
                await publisher.close()

        return asyncio.run(send())

    def request(self, image: str, definition: Any) -> dict[str, Any]:
        return {
            "tenant_id": "acme",
            "session_id": str(uuid4()),
            "image_id": str(uuid4()),
            "image_url": f"gs://{BUCKET}/{image}",
            "pipeline_definition": definition.model_dump(mode="json", exclude_none=True),
        }

    def upload(self, name: str) -> str:
        """Put a photo into the bucket, which announces it, and return its name."""
        file = io.BytesIO()
        Image.fromarray(demo_photo(7, 240, 320).pixels).save(file, "JPEG")
        answer = httpx.post(
            f"{self.storage}/upload/storage/v1/b/{BUCKET}/o",
            params={"uploadType": "media", "name": name},
            headers={"content-type": "image/jpeg"},
            content=file.getvalue(),
            trust_env=False,
        )
        answer.raise_for_status()
        return name

    def objects(self) -> list[str]:
        answer = httpx.get(f"{self.storage}/storage/v1/b/{BUCKET}/o", trust_env=False)
        return [item["name"] for item in answer.json()["items"]]

    def results(self) -> list[ProcessingResult]:
        found = self.pulled(self.resources.results_subscription)
        return [ProcessingResult.model_validate_json(delivery.data) for delivery in found]

    def pulled(self, name: str) -> list[Delivery]:
        """What waits on a subscription; it is acked."""

        async def pull() -> list[Delivery]:
            subscriber = PubSubSubscriber(self.resources.subscription(name), self.endpoint, pull_timeout=2)
            found = list(await subscriber.pull(100))
            if found:
                await subscriber.acknowledge([delivery.ack_id for delivery in found])
            await subscriber.close()
            return found

        return asyncio.run(pull())


@pytest.fixture(scope="module")
def peers(google_emulator: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    folder = tmp_path_factory.mktemp("process")
    (folder / "routes.yaml").write_text(ROUTES)
    resources = Resources(project="process")
    endpoint = Endpoint(emulator=google_emulator)
    create_resources(resources, endpoint)
    events = (
        "-event.pubsub-project-id", resources.project,
        "-event.pubsub-topic", resources.requests_topic,
        "-event.list", "finalize,delete,metadataUpdate",
    )  # fmt: skip
    with (
        recording_backend() as (backend, url),
        fake_gcs_server(*events, environment={"PUBSUB_EMULATOR_HOST": google_emulator}) as storage,
    ):
        make_gcs_bucket(storage, BUCKET)
        environment = {
            "GOOGLE_CLOUD_PROJECT": resources.project,
            "SUBSCRIPTION": resources.worker_subscription,
            "RESULTS_TOPIC": resources.results_topic,
            "DEAD_LETTER_TOPIC": resources.dead_letter_topic,
            "BUCKET": BUCKET,
            "BACKEND_URL": url,
            "PUBSUB_EMULATOR_HOST": google_emulator,
            "STORAGE_EMULATOR_HOST": storage,
            "ROUTES_FILE": str(folder / "routes.yaml"),
            "PYTHONPATH": str(install(folder / "plugin", HOLD)),
        }
        yield Peers(folder, resources, endpoint, storage, backend, environment)


@pytest.fixture(scope="module")
def worker(peers: Peers) -> Iterator[Process]:
    """One worker for most tests, with the packaged models; it is ready."""
    with running(peers.folder / "worker", **peers.environment) as process:
        process.until_ready()
        yield process


def hold(folder: Path) -> Any:
    folder.mkdir()
    return pipeline(step("hold", folder=str(folder)))


def test_probes_say_yes_only_when_it_is_ready(worker: Process) -> None:
    assert (0, 0) in worker.warming_up  # while they warm up: test_starting.py
    assert (200, 200) not in worker.warming_up[:-1]
    for probe in ("startupz", "readyz", "livez"):
        assert worker.ask(probe) == (200, '{"ok":true,"failing":{}}')


def test_a_published_request_ends_as_a_result_a_callback_and_an_ack(peers: Peers, worker: Process) -> None:
    image = peers.upload("acme/camera/a.jpg")  # where no route starts anything
    body = peers.request(image, pipeline(step("detection"), step("count")))
    peers.publish(body)

    ended = worker.until(lambda: worker.logs("succeeded"), "the request to succeed")

    [result] = peers.results()
    assert str(result.image_id) == body["image_id"]
    assert (result.status, [model.name for model in result.models]) == ("succeeded", ["plants"])
    assert result.detections
    assert peers.backend.accepted("/results") == {result.result_id: 1}
    assert [(entry["tenant_id"], entry["image_id"]) for entry in ended] == [("acme", body["image_id"])]
    assert worker.handled()["succeeded"] == 1
    assert worker.logs("settle_failed") == []


def test_an_uploaded_photo_is_processed_and_nothing_that_comes_of_it_is(
    peers: Peers, worker: Process
) -> None:
    before = sum(peers.backend.accepted("/results").values())
    peers.upload("acme/originals/b.jpg")

    worker.until(lambda: len(worker.logs("succeeded")) == 2, "the photo to be processed")
    # Each object in the bucket was announced once, each claim twice more when it was written anew as done (as
    # made and as overwritten), and each announcement is handled once.
    announced = len(peers.objects()) + 2 * 2
    worker.until(lambda: sum(worker.handled().values()) == announced + 1, "all events")

    [result] = peers.results()
    assert result.image_url == f"gs://{BUCKET}/acme/originals/b.jpg"
    assert {artifact.kind for artifact in result.artifacts} >= {"original", "processed"}
    assert f"acme/originals/{result.image_id}.jpg" in peers.objects()
    handled = worker.handled()
    assert (handled["succeeded"], handled["ignored_own_output"]) == (2, 1)
    assert handled["ignored_other_event"] == 2
    assert set(handled) == {
        "succeeded",
        "ignored_no_route",
        "ignored_other_event",
        "ignored_own_folder",
        "ignored_own_output",
    }
    assert sum(peers.backend.accepted("/results").values()) == before + 1
    assert peers.pulled(peers.resources.dead_letter_subscription) == []


def test_metrics_are_prometheus_text(worker: Process) -> None:
    status, text = worker.ask("metrics")

    assert status == 200
    assert "# TYPE mlworker_messages_total counter" in text
    assert "mlworker_slots_busy 0.0" in text
    assert 'mlworker_batch_size_count{model="plants"}' in text


def test_sigterm_drains_what_runs_is_delivered_and_the_process_ends_well(
    peers: Peers, worker: Process
) -> None:
    body = peers.request("acme/camera/a.jpg", hold(folder := peers.folder / "drained"))
    peers.publish(body)
    worker.until((folder / "started").exists, "the step to start")

    worker.popen.send_signal(signal.SIGTERM)
    worker.until(lambda: worker.ask("readyz")[0] == 503, "it not to be ready any more")
    assert '"draining":"draining"' in worker.ask("readyz")[1]
    assert worker.ask("livez")[0] == 200
    (folder / "gate").touch()

    assert worker.ended(20) == 0
    [result] = peers.results()
    assert str(result.image_id) == body["image_id"]
    assert peers.backend.accepted("/results")[result.result_id] == 1
    assert worker.logs()[-1]["message"] == "drained"


def test_every_line_of_the_log_is_one_json_object(worker: Process) -> None:
    entries = worker.logs()

    assert entries[0]["message"] == "starting"
    assert all({"severity", "message", "timestamp"} <= set(entry) for entry in entries)
    assert {entry["severity"] for entry in entries} == {"INFO"}
    assert worker.stdout.read_text() == ""


@pytest.fixture
def without_models(peers: Peers) -> dict[str, str]:
    """The environment of a worker that starts quickly."""
    models = peers.folder / "models"
    models.mkdir(exist_ok=True)
    (models / "models.yaml").write_text("models: []\n")
    # With one slot no pull waits while it is taken: the emulator leases messages even to pulls that were
    # given up, and those come back only when that lease is over.
    return {**peers.environment, "MODEL_PATH": str(models), "ROUTES_FILE": "", "SLOTS": "1"}


def test_what_does_not_end_in_time_is_handed_back_and_holds_nobody_up(
    peers: Peers, without_models: dict[str, str]
) -> None:
    with running(peers.folder / "impatient", **without_models, DRAIN_TIMEOUT="0.5") as process:
        process.until_ready()
        message_id = peers.publish(peers.request("acme/camera/a.jpg", hold(folder := peers.folder / "late")))
        process.until((folder / "started").exists, "the step to start")
        process.popen.send_signal(signal.SIGTERM)

        assert process.ended(20) == 0
    handed_back: list[str] = []
    end = time.monotonic() + 20  # its lease would have lasted for two minutes
    while message_id not in handed_back:
        assert time.monotonic() < end, f"{message_id} is not there; handed back: {handed_back}"
        handed_back += [delivery.message_id for delivery in peers.pulled(peers.resources.worker_subscription)]


def test_a_second_signal_ends_it_at_once(peers: Peers, without_models: dict[str, str]) -> None:
    with running(peers.folder / "twice", **without_models) as process:
        process.until_ready()
        peers.publish(peers.request("acme/camera/a.jpg", hold(folder := peers.folder / "never")))
        process.until((folder / "started").exists, "the step to start")
        process.popen.send_signal(signal.SIGTERM)
        process.until(lambda: process.logs("stopping"), "the first signal to be heard")
        asked = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)

        assert process.ended(20) == 1
        assert time.monotonic() - asked < 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_while_it_starts_ends_it_at_once(peers: Peers, number: signal.Signals, code: int) -> None:
    with running(peers.folder / number.name, **peers.environment) as process:
        process.until(lambda: process.logs("starting"), "it to start")
        process.popen.send_signal(number)

        assert process.ended(20) == code
        assert process.logs()[-1]["message"] == "stopped_while_starting"
