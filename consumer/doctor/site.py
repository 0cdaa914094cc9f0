"""What the checks look at: the settings, the files they name, and the peers, each asked once."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx

from consumer.broker.pubsub import Endpoint
from consumer.doctor.checks import Skip, Unreachable
from consumer.doctor.connection import Connection, Target, connect, resolve
from consumer.doctor.once import Once, aside
from consumer.doctor.pubsub import PubSub
from consumer.doctor.storage_api import StorageApi
from consumer.models.manifest import InvalidManifest, Manifest
from consumer.models.opening import read_manifest
from consumer.outbound.addresses import address_of
from consumer.outbound.hosts import AllowedHosts
from consumer.presets import InvalidPresets, Presets, load_presets
from consumer.routes import InvalidRoutes, Routes, load_routes
from consumer.settings import InvalidSettings, Settings, full_name
from consumer.storage import ObjectStore
from pipeline_steps.errors import ObjectMissing, StepError
from pipeline_steps.loading import PluginFailed, load_steps
from pipeline_steps.registry import StepRegistry

PROBES = "dead-letters/doctor-"
"""How the names begin of objects that the doctor asks for or writes. No tenant is called so, and the
notification of such an object starts nothing (`consumer/routes.py`)."""

_TIMEOUT = 4.0


@dataclass
class Site:
    """One set-up. Whatever is asked of it raises `Skip` when another check says why there is no answer."""

    settings: Settings
    online: bool = True
    store: ObjectStore | None = None
    """Another store than Cloud Storage."""
    tls: ssl.SSLContext = field(default_factory=lambda: httpx.create_ssl_context(trust_env=False))
    """As the worker's own client has it: no authorities that the environment names."""
    device_folder: Path = Path("/dev")
    pubsub: PubSub = field(init=False)
    storage_api: StorageApi = field(init=False)
    _once: Once = field(default_factory=Once)
    _opened: ObjectStore | None = None
    _steps: StepRegistry | None = None

    def __post_init__(self) -> None:
        endpoint = Endpoint(emulator=self.settings.pubsub_emulator_host)
        self.pubsub = PubSub(endpoint, self.settings.subscription_path)
        self.storage_api = StorageApi(self.settings.storage_emulator_host)

    @property
    def is_local(self) -> bool:
        """Whether nothing is real: then the backend may be on this machine, and nobody has permissions."""
        return self.settings.pubsub_emulator_host is not None

    # ------------------------------------------------------------------ names

    @property
    def results_topic(self) -> str:
        """Its full name."""
        return self._full("topics", self.settings.results_topic)

    @property
    def dead_letter_topic(self) -> str:
        """Its full name."""
        return self._full("topics", self.settings.dead_letter_topic)

    @property
    def requests_topic(self) -> str | None:
        """Its full name; None if no setting names it."""
        name = self.settings.requests_topic
        return self._full("topics", name) if name else None

    @property
    def dead_letter_subscription(self) -> str:
        """Its full name.

        Raises:
            Skip: no setting names it.
        """
        if not self.settings.dead_letter_subscription:
            raise Skip("DEAD_LETTER_SUBSCRIPTION is not set (see dead_letters.subscription)")
        return self._full("subscriptions", self.settings.dead_letter_subscription)

    @property
    def names(self) -> Mapping[str, str]:
        """What the braces in a check's `fix` stand for."""
        subscription = self.settings.dead_letter_subscription
        return {
            "project": self.settings.subscription_path.split("/")[1],
            "subscription": self.settings.subscription_path,
            "requests_topic": self.requests_topic or "REQUESTS_TOPIC",
            "results_topic": self.results_topic,
            "dead_letter_topic": self.dead_letter_topic,
            "dead_letter_subscription": (
                self._full("subscriptions", subscription) if subscription else "DEAD_LETTER_SUBSCRIPTION"
            ),
            "bucket": self.settings.bucket,
        }

    # ------------------------------------------------------------------ Pub/Sub

    async def subscription(self) -> Any:
        """Return the worker's subscription (`google.pubsub_v1.types.Subscription`)."""
        return await self.pubsub.subscription(self.settings.subscription_path)

    async def dead_letters(self) -> Any:
        """Return the subscription of the dead letters (`google.pubsub_v1.types.Subscription`)."""
        return await self.pubsub.subscription(self.dead_letter_subscription)

    # ------------------------------------------------------------------ files

    def steps(self) -> StepRegistry:
        """Return the steps, those of plug-ins too."""
        with _said_by("steps.plugins", PluginFailed):
            self._steps = self._steps or load_steps()
        return self._steps

    def routes(self) -> Routes:
        """Return the routes."""
        with _said_by("routes.file", InvalidRoutes):
            return load_routes(self.settings.routes_file)

    def presets(self) -> Presets:
        """Return the presets."""
        with _said_by("presets.file", InvalidPresets):
            return load_presets(self.settings.presets_file)

    async def read_manifest(self) -> Manifest:
        """Return the manifest of models.

        Raises:
            InvalidManifest, StepError: it cannot be used, or not be read.
        """

        async def read() -> Manifest:
            is_remote = self.settings.model_path.startswith("gs://")
            return await read_manifest(
                self.settings.model_path, await self.object_store() if is_remote else None
            )

        return await self._once.get("manifest", read)

    async def manifest(self) -> Manifest:
        """Return the manifest of models."""
        with _said_by("models.manifest", InvalidManifest, StepError):
            return await self.read_manifest()

    # ------------------------------------------------------------------ the bucket's objects

    async def object_store(self) -> ObjectStore:
        """Return the store, as the worker uses it.

        Raises:
            StoreMisconfigured: there are no credentials.
        """
        if not self.online:
            raise Skip("needs the network (--offline)")

        async def open_it() -> ObjectStore:
            if self.store is not None:
                return self.store
            opened = self._opened = await aside(lambda: _cloud_storage(self.settings))
            return opened

        return await self._once.get("store", open_it)

    async def look_into(self, bucket: str) -> None:
        """Return if the bucket says of an object that is not there that it is not there.

        Raises:
            StepError: it does not.
        """

        async def look() -> None:
            store = await self.object_store()
            try:
                await store.stat(bucket, f"{PROBES}{uuid4()}")
            except ObjectMissing:
                return

        await self._once.get(("look", bucket), look)

    async def readable(self, bucket: str) -> ObjectStore:
        """Return the store if the bucket answers."""
        with _said_by("bucket.readable", StepError):
            await self.look_into(bucket)
            return await self.object_store()

    # ------------------------------------------------------------------ the backend

    def host_entries(self) -> Iterator[tuple[str, str]]:
        """Yield the hosts that may be called back, as they are written, each with its setting."""
        if self.settings.backend_url != "none":
            yield "BACKEND_URL", str(self.settings.backend_url)
        for entry in self.settings.callback_allowed_hosts:
            yield "CALLBACK_ALLOWED_HOSTS", entry

    def hosts(self) -> AllowedHosts:
        """Return the hosts that may be called back.

        Raises:
            InvalidSettings: one of them cannot be read.
        """
        entries = [entry for _, entry in self.host_entries()]
        try:
            return AllowedHosts.of(entries, allow_loopback=self.is_local)
        except ValueError as error:
            raise InvalidSettings(f"CALLBACK_ALLOWED_HOSTS: {error}") from error

    async def connection(self, target: Target) -> Connection:
        """Return what connecting to a host gave.

        Raises:
            CannotConnect: nothing.
            CallbackFailed: it stands for an address that may not be called.
        """

        async def try_it() -> Connection:
            addresses = await resolve(target)
            found = [address for text in addresses if (address := address_of(text))]
            self.hosts().check_addresses(target.host, target.port, found)
            return await connect(target, addresses, self.tls)

        return await self._once.get(("connection", target), try_it)

    # ------------------------------------------------------------------ inside

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Drop the connections, and whatever is still being asked."""
        self._once.forget()
        if self._opened is not None:
            await self._opened.close()
        self.storage_api.forget()
        await self.pubsub.close()

    def _full(self, collection: str, name: str) -> str:
        return full_name(collection, name, self.settings.google_cloud_project)


@contextmanager
def _said_by(check: str, *errors: type[Exception]) -> Iterator[None]:
    """Skip what needs something that another check says is wrong."""
    try:
        yield
    except errors as error:
        raise Unreachable(check, str(error)) from error


def _cloud_storage(settings: Settings) -> ObjectStore:
    from consumer.storage.gcs import GcsStore

    # Once, and with short limits: it is better to hear of a slow answer than to wait for it.
    return GcsStore(
        settings.google_cloud_project,
        settings.storage_emulator_host,
        threads=8,
        timeout_s=_TIMEOUT,
        retry_s=0,
    )
