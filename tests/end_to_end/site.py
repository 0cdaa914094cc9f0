"""A whole site in one process: broker, bucket, backend, and workers that can be started and stopped."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image as PillowImage
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from consumer.app import RunningWorker, open_worker
from consumer.broker import Delivery
from consumer.local.pubsub import Deed, EmbeddedPubSub, Journal
from consumer.ops.health import serving
from consumer.outcomes import Outcome
from consumer.settings import Settings
from consumer.storage.filesystem import FilesystemStore
from contracts.result import ProcessingResult
from pipeline_steps.registry import StepRegistry

PROJECT, BUCKET = "test", "photos"
REQUESTS, RESULTS, DEAD = (
    f"projects/{PROJECT}/topics/{name}" for name in ("requests", "results", "dead-letters")
)
WORK, RESULTS_SUB, DEAD_SUB = (
    f"projects/{PROJECT}/subscriptions/{name}" for name in ("work", "results", "dead-letters")
)


@dataclass
class Backend:
    """Records callbacks, and answers what it is told to."""

    answers: list[int] = field(default_factory=list)
    """Statuses of the next answers; then 200."""
    down_until: float = 0.0
    status_when_down: int = 503
    refuses: dict[str, int] = field(default_factory=dict)
    """What every callback about an image is answered with."""
    calls: list[tuple[str, dict[str, Any], dict[str, str], int]] = field(default_factory=list)

    async def post(self, request: Request) -> Response:
        status = self.answers.pop(0) if self.answers else 200
        if time.monotonic() < self.down_until:
            status = self.status_when_down
        body = await request.json()
        status = self.refuses.get(body.get("imageId", ""), status)
        self.calls.append((request.url.path, body, dict(request.headers), status))
        return JSONResponse({}, status_code=status)

    def accepted(self, ending: str) -> Counter[str]:
        """How often each idempotency key was accepted at a path with that ending."""
        return Counter(
            headers["idempotency-key"]
            for path, _, headers, status in self.calls
            if path.endswith(ending) and status == 200
        )


@dataclass
class Site:
    """The peers, and what can be asked of them."""

    broker: EmbeddedPubSub
    store: FilesystemStore
    backend: Backend
    backend_url: str
    models: Path
    steps: StepRegistry
    journal: Journal
    settled: list[tuple[Delivery, Outcome]] = field(default_factory=list)

    def settings(self, **changes: Any) -> Settings:
        return Settings(
            **{
                "google_cloud_project": PROJECT,
                "subscription": "work",
                "results_topic": "results",
                "dead_letter_topic": "dead-letters",
                "bucket": BUCKET,
                "pubsub_emulator_host": self.broker.address,
                "backend_url": self.backend_url,
                "model_path": str(self.models),
                "devices": "cpu",
                "port": 0,
                "drain_timeout": 10.0,
                **changes,
            }
        )

    @asynccontextmanager
    async def worker(self, **changes: Any) -> AsyncIterator[RunningWorker]:
        """A worker that pulls while the context lasts, and then drains."""

        def note(delivery: Delivery, outcome: Outcome, seconds: float) -> None:
            del seconds
            self.settled.append((delivery, outcome))

        async with open_worker(
            self.settings(**changes),
            store=self.store,
            steps=self.steps,
            is_local=True,
            host="127.0.0.1",
            on_outcome=note,
        ) as running:
            task = asyncio.create_task(running.worker.run())
            try:
                yield running
            finally:
                running.worker.stop()
                await task

    async def photo(self, name: str = "acme/originals/a.jpg", **metadata: str) -> str:
        """Put a small photo into the bucket and return its url."""
        buffer = BytesIO()
        PillowImage.fromarray(np.full((48, 64, 3), 120, np.uint8)).save(buffer, "JPEG")
        info = await self.store.write(
            BUCKET, name, buffer.getvalue(), content_type="image/jpeg", metadata=metadata
        )
        return info.url

    def request(self, *steps: dict[str, Any], **changes: Any) -> dict[str, Any]:
        return {
            "tenant_id": "acme",
            "session_id": str(uuid4()),
            "image_id": str(uuid4()),
            "image_url": f"gs://{BUCKET}/acme/originals/a.jpg",
            "pipeline_definition": {"steps": list(steps)},
            "settings": {},
            **changes,
        }

    def publish(self, body: dict[str, Any] | bytes, **attributes: str) -> str:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.broker.publish(REQUESTS, data, **attributes)

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"waited {seconds} s for {what}; settled: {self.reasons()}"
            await asyncio.sleep(0.01)

    async def until_settled(self, count: int, seconds: float = 30.0) -> None:
        await self.until(lambda: len(self.settled) >= count, f"{count} deliveries to be settled", seconds)

    def deliveries(self) -> int:
        """How often a request was given to a worker."""
        return len(self.journal.lines(Deed.LEASED, where=WORK))

    def reasons(self) -> list[str]:
        return [outcome.reason for _, outcome in self.settled]

    async def results(self) -> list[ProcessingResult]:
        return [ProcessingResult.model_validate_json(m.data) for m in await self.messages(RESULTS_SUB)]

    async def dead_letters(self) -> list[Delivery]:
        return await self.messages(DEAD_SUB)

    async def messages(self, subscription: str) -> list[Delivery]:
        """Everything that waits on a subscription; it is acked."""
        from consumer.broker.pubsub import Endpoint
        from consumer.broker.subscriber import PubSubSubscriber

        subscriber = PubSubSubscriber(subscription, Endpoint(emulator=self.broker.address), pull_timeout=2)
        found: list[Delivery] = []
        while self.broker.backlog(subscription):
            for delivery in await subscriber.pull(100):
                found.append(delivery)
                await subscriber.acknowledge([delivery.ack_id])
        await subscriber.close()
        return found


@asynccontextmanager
async def open_site(folder: Path, steps: StepRegistry) -> AsyncIterator[Site]:
    models = folder / "models"
    models.mkdir()
    (models / "models.yaml").write_text("models: []\n")
    backend = Backend()
    app = Starlette(routes=[Route("/{path:path}", backend.post, methods=["POST"])])
    (folder / "store" / BUCKET).mkdir(parents=True)
    store = FilesystemStore(folder / "store")
    journal = Journal()
    with EmbeddedPubSub(journal=journal) as broker:
        for topic in (REQUESTS, RESULTS, DEAD):
            broker.create_topic(topic)
        broker.create_subscription(WORK, REQUESTS, ack_deadline_seconds=10)
        broker.create_subscription(RESULTS_SUB, RESULTS, ack_deadline_seconds=60)
        broker.create_subscription(DEAD_SUB, DEAD, ack_deadline_seconds=60)
        async with serving(app, "127.0.0.1", 0) as port:
            yield Site(broker, store, backend, f"http://127.0.0.1:{port}", models, steps, journal)
    await store.close()
