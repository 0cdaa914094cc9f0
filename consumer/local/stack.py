"""Everything a worker needs, on this machine: the same `Worker` as in production, between embedded peers.

::

    async with LocalStack(folder) as stack:
        await stack.upload("acme/originals/tray.jpg", photo)     # its notification starts the pipeline
        await stack.wait_until(lambda: stack.backend.callbacks)

Embedded are Pub/Sub (Google's protocol on a port of this machine), the bucket (a folder, whose writes are
announced as Cloud Storage announces them) and the backend. Emulators may stand in for the first two.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from consumer.app import RunningWorker, open_worker
from consumer.broker import Delivery
from consumer.broker.publisher import PubSubPublisher
from consumer.broker.pubsub import Endpoint
from consumer.broker.subscriber import PubSubSubscriber
from consumer.local.backend import SmallBackend
from consumer.local.collector import Collector, read_result
from consumer.local.embedded import Emulators, embedded_pubsub, open_bucket
from consumer.local.given_settings import given_settings, write_routes
from consumer.local.notifications import BucketNotifications, NotifyingStore
from consumer.local.pipelines import fullest_pipeline, route_of
from consumer.local.pubsub import EmbeddedPubSub
from consumer.local.resources import Resources, create_resources
from consumer.local.worker_task import Ended, WorkerTask
from consumer.models.opening import read_manifest
from consumer.outcomes import Outcome
from consumer.settings import Settings
from consumer.storage import ObjectInfo
from contracts.pipeline import PipelineDefinition
from contracts.request import ProcessingRequest
from contracts.result import ProcessingResult
from pipeline_steps.errors import ObjectMissing

HOST = "127.0.0.1"
BUCKET = "nursery-photos"
_LOOK = 0.02


class LocalStack:
    """A worker and all of its peers, while the context lasts; everything listens on this machine only.

    Args:
        folder: of the bucket and of configuration; made if missing.
        model_path: folder of `models.yaml`; `demo` is the packaged one.
        pipeline: what a photo under `{tenant}/originals/` starts; None is the fullest the models permit.
        routes: routes instead of that one, as the routes file has them.
        settings: fields of `Settings` to set otherwise, such as `{"slots": 2}`.
        pubsub_port: of the embedded Pub/Sub server; 0 for any.
        backend_port: of the backend; 0 for any.
        emulators: servers to use instead of the embedded ones.
        collects: whether results and dead letters are read here; otherwise they stay for others.
        note: a line for the backend's page.
    """

    def __init__(
        self,
        folder: Path,
        *,
        model_path: str = "demo",
        pipeline: PipelineDefinition | None = None,
        routes: Sequence[Mapping[str, Any]] | None = None,
        settings: Mapping[str, object] | None = None,
        pubsub_port: int = 0,
        backend_port: int = 0,
        emulators: Emulators | None = None,
        collects: bool = True,
        note: str = "",
    ) -> None:
        self.folder = folder
        self.bucket = BUCKET
        self.resources = Resources()
        self.backend = SmallBackend(self._picture, self.publish_bytes, note)
        self.pubsub: EmbeddedPubSub | None = None
        """None while an emulator stands in for it."""
        self.ended: list[Ended] = []
        """Every delivery the worker settled, ignored ones too; without their bytes, which may be many."""
        self.results: Collector
        self.dead_letters: Collector
        self.store: NotifyingStore
        self.settings: Settings
        self.pubsub_address = ""
        self.backend_url = ""
        self._model_path = model_path
        self._pipeline = pipeline
        self._routes = routes
        self._overrides = dict(settings or {})
        self._ports = (pubsub_port, backend_port)
        self._emulators = emulators or Emulators()
        self._collects = collects
        self._open = AsyncExitStack()
        self._worker = WorkerTask(self._open_worker)
        self._publisher: PubSubPublisher
        self._notifications: BucketNotifications

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            await opening.enter_async_context(self.peers())
            await self.start_worker()
            self._open = opening.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    # ------------------------------------------------------------------ parts

    @asynccontextmanager
    async def peers(self) -> AsyncIterator[Self]:
        """Run everything but the worker, while the context lasts.

        Raises:
            OSError: a port is taken.
        """
        async with AsyncExitStack() as peers:
            await self._start_peers(peers)
            peers.push_async_callback(self.stop_worker)
            yield self

    async def _start_peers(self, peers: AsyncExitStack) -> None:
        await asyncio.to_thread(self.folder.mkdir, parents=True, exist_ok=True)
        if self._emulators.pubsub is None:
            self.pubsub = await peers.enter_async_context(embedded_pubsub(HOST, self._ports[0]))
            self.pubsub_address = self.pubsub.address
        else:
            self.pubsub_address = self._emulators.pubsub
        endpoint = Endpoint(emulator=self.pubsub_address)
        await asyncio.to_thread(create_resources, self.resources, endpoint)
        self._publisher = PubSubPublisher(self.resources.project, endpoint)
        peers.push_async_callback(self._publisher.close)
        bucket = await asyncio.to_thread(
            open_bucket, self.folder, self.bucket, self.resources.project, self._emulators.storage
        )
        self._notifications = BucketNotifications(self._publisher, self.resources.requests_topic)
        self.store = NotifyingStore(bucket, self._notifications.announce)
        peers.push_async_callback(self.store.close)
        await peers.enter_async_context(self._notifications)
        if self._collects:
            self.results = await peers.enter_async_context(
                self._collector(endpoint, self.resources.results_subscription)
            )
            self.dead_letters = await peers.enter_async_context(
                self._collector(endpoint, self.resources.dead_letter_subscription)
            )
        self.backend_url = await peers.enter_async_context(self.backend.serve(HOST, self._ports[1]))
        self.settings = await self._make_settings()

    async def start_worker(self) -> None:
        """Start the worker, and return when its models are warm. After `stop_worker` it is a new one.

        Raises:
            ModelUnavailable: a model does not load.
        """
        await self._worker.start()

    async def stop_worker(self) -> None:
        """Drain the worker, as SIGTERM does."""
        await self._worker.stop()

    # ------------------------------------------------------------------ what publishers and uploaders do

    async def upload(
        self,
        name: str,
        data: bytes,
        *,
        content_type: str = "image/jpeg",
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Write an object into the bucket; its notification follows."""
        return await self.store.write(self.bucket, name, data, content_type=content_type, metadata=metadata)

    async def publish(self, request: ProcessingRequest, **attributes: str) -> str:
        """Publish a request and return the message's id."""
        return await self.publish_bytes(request.model_dump_json(exclude_none=True).encode(), **attributes)

    async def publish_bytes(self, data: bytes, **attributes: str) -> str:
        """Publish anything to the requests topic and return the message's id."""
        return await self._publisher.publish(self.resources.requests_topic, data, attributes)

    def url(self, name: str) -> str:
        """Return the `gs://` url of an object in the bucket."""
        return f"gs://{self.bucket}/{name}"

    # ------------------------------------------------------------------ what came of it

    @property
    def running(self) -> RunningWorker:
        """The worker, its pool of models and the port of its probes."""
        if self._worker.running is None:
            raise RuntimeError("the worker is not running")
        return self._worker.running

    @property
    def runs(self) -> list[Ended]:
        """The deliveries that were work: neither ignored notifications nor duplicates."""
        return [
            ended
            for ended in self.ended
            if not ended.outcome.reason.startswith("ignored_") and ended.outcome.reason != "duplicate"
        ]

    async def read_result(self, delivery: Delivery) -> ProcessingResult:
        """Return the result that a message of the results topic carries or points to."""
        return await read_result(delivery, self.store)

    async def wait_until(self, condition: Callable[[], object], timeout: float = 60.0) -> None:
        """Wait until `condition` holds.

        Raises:
            TimeoutError: it did not come about.
            Exception: what ended the worker, should it have failed.
        """
        async with asyncio.timeout(timeout):
            while not condition():
                self.check()
                await asyncio.sleep(_LOOK)

    def check(self) -> None:
        """Return if the worker works, or was stopped on purpose.

        Raises:
            Exception: what ended it.
        """
        self._worker.check()

    async def run_until(self, event: asyncio.Event) -> None:
        """Wait for `event`.

        Raises:
            Exception: what ended the worker, should it fail before that.
        """
        await self._worker.until(event)

    async def settled(self, timeout: float = 60.0) -> None:
        """Wait until nothing is left to do: every message acked, those about the worker's own outputs too.

        With an emulator, which does not say what is left, only what was written here is waited for.

        Raises:
            TimeoutError: something is left.
        """
        subscription = self.resources.subscription(self.resources.worker_subscription)
        async with asyncio.timeout(timeout):
            while True:
                await self._notifications.all_sent()
                left = await asyncio.to_thread(self.pubsub.backlog, subscription) if self.pubsub else 0
                running = self._worker.running
                if not left and (running is None or not running.worker.busy):
                    return
                await asyncio.sleep(_LOOK)

    # ------------------------------------------------------------------ inside

    def _collector(self, endpoint: Endpoint, subscription: str) -> Collector:
        return Collector(PubSubSubscriber(self.resources.subscription(subscription), endpoint))

    def _open_worker(self) -> AbstractAsyncContextManager[RunningWorker]:
        return open_worker(
            self.settings, store=self.store, is_local=True, host=HOST, on_outcome=self._on_outcome
        )

    async def _make_settings(self) -> Settings:
        if (routes := self._routes) is None:
            pipeline = self._pipeline or fullest_pipeline((await read_manifest(self._model_path)).specs())
            routes = [route_of(self.bucket, pipeline)]
        values: dict[str, object] = {
            **self.resources.settings,
            "bucket": self.bucket,
            "pubsub_emulator_host": self.pubsub_address,
            "storage_emulator_host": self._emulators.storage,
            "routes_file": await asyncio.to_thread(write_routes, self.folder / "routes.yaml", routes),
            "model_path": self._model_path,
            "backend_url": self.backend_url,
            "brake_dead_letters": 0,  # whoever tries out bad messages here wants to see each of them
        }
        return given_settings({**values, **self._overrides})

    async def _picture(self, tenant_id: str, image_id: UUID) -> bytes | None:
        with suppress(ObjectMissing):
            return (await self.store.read(self.bucket, f"{tenant_id}/processed/{image_id}.jpg")).data
        return None

    def _on_outcome(self, delivery: Delivery, outcome: Outcome, seconds: float) -> None:
        # Without its body: a stack that is kept running must not keep every message.
        self.ended.append(Ended(replace(delivery, data=b""), outcome, seconds))
