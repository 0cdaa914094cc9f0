"""The object store as Cloud Storage, or an emulator that speaks its JSON API.

What is done here beyond Google's client:

- **Single objects are asked about in requests of our own** (`gcs_requests.py`), under the client's retries.
- **Downloads are checked**: size and CRC-32C of what arrived against the object's own.
- **A lost answer to a conditional write** is told from another writer's success.
- **A 404 says which is missing**, the object (permanent) or the bucket (the operator's to mend).

The client is synchronous; its calls run in threads of this store's own, so that a slow store cannot take the
threads of the steps. A call that is cancelled ends in its thread, unheard.
"""

from __future__ import annotations

import http.client
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import google.auth
import requests
import urllib3
from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from consumer.storage import STREAM_BYTES, ObjectInfo, OnFound, PreconditionFailed, StoredObject
from consumer.storage.checksum import crc32c
from consumer.storage.gcs_listing import Listing, page_of
from consumer.storage.gcs_requests import ObjectRequests
from consumer.storage.object_names import check_bucket_name, check_url_name
from consumer.storage.streaming import in_threads, verified
from consumer.storage.threads import CallThreads
from pipeline_steps.errors import InvalidInput, ObjectMissing, StoreMisconfigured, StoreUnavailable

_ENDPOINT = "https://storage.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_CONNECT_TIMEOUT_S = 5.0
_READ_TRIES = 3
_BUCKET_KNOWN_S = 60.0
_PAGE = 1000


class GcsStore:
    """An `ObjectStore` over google-cloud-storage; one client for its whole life.

    Args:
        project: the Google Cloud project; None where only objects are touched.
        emulator: `http://host:port` of an emulator, which is spoken to without credentials.
        threads: calls that run at once; more wait.
        timeout_s: how long one request may be silent.
        retry_s: how long one operation is retried; 0 tries once.

    Raises:
        StoreMisconfigured: there are no credentials.
    """

    def __init__(
        self,
        project: str | None,
        emulator: str | None = None,
        *,
        threads: int = 16,
        timeout_s: float = 60.0,
        retry_s: float = 30.0,
    ) -> None:
        credentials = _credentials(anonymous=bool(emulator))
        endpoint = _ENDPOINT
        if emulator:
            endpoint = emulator.rstrip("/") if "://" in emulator else f"http://{emulator}"
        session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
        # As many kept connections as threads: the default of ten would open and drop the others.
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=threads)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        # The endpoint is always named: left out, the client would look for one in the environment.
        self._client = storage.Client(
            project, credentials, _http=session, client_options={"api_endpoint": endpoint}
        )
        # Made for the client's own traces, it asks for the bucket in a new thread at every miss of an object.
        self._client._bucket_metadata_cache = None  # noqa: SLF001 - there is only an environment variable
        self._threads = CallThreads(threads, "gcs-store")
        self._timeout = (_CONNECT_TIMEOUT_S, timeout_s)
        self._requests = ObjectRequests(credentials, endpoint, self._timeout, threads)
        self._retry = DEFAULT_RETRY.with_delay(initial=0.2, maximum=5.0, multiplier=2.0).with_timeout(retry_s)
        self._bucket_seen: dict[str, float] = {}

    async def stat(self, bucket: str, name: str, *, generation: int | None = None) -> ObjectInfo:
        """See `ObjectStore.stat`."""
        return await self._threads.run(self._stat, bucket, name, generation)

    async def read(
        self, bucket: str, name: str, *, generation: int | None = None, on_found: OnFound = lambda _: None
    ) -> StoredObject:
        """See `ObjectStore.read`; the bytes are as stored, also where they were stored compressed."""
        return await self._threads.run(self._read, bucket, name, generation, on_found)

    def stream(self, bucket: str, name: str, *, generation: int | None = None) -> AsyncGenerator[bytes, None]:
        """See `ObjectStore.stream`; the bytes are as stored, as those of `read`."""
        return in_threads(self._threads, self._pieces(bucket, name, generation))

    async def write(
        self,
        bucket: str,
        name: str,
        data: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
        if_generation_match: int | None = None,
    ) -> ObjectInfo:
        """See `ObjectStore.write`."""
        resource = {
            "name": name,
            "contentType": content_type,
            "metadata": dict(metadata or {}),
            "crc32c": crc32c(data),
        }
        return await self._threads.run(self._write, bucket, resource, data, if_generation_match)

    async def delete(self, bucket: str, name: str, *, if_generation_match: int | None = None) -> None:
        """See `ObjectStore.delete`."""
        await self._threads.run(self._delete, bucket, name, if_generation_match)

    async def list(self, bucket: str, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """See `ObjectStore.list`; a page at a time is held."""
        listing, token = Listing(bucket, prefix, after, _PAGE), None
        while True:
            infos, token = await self._threads.run(self._page, listing, token)
            for info in infos:
                yield info
            if token is None:
                return

    async def close(self) -> None:
        """Wait for the calls under way, then close the connections."""
        await self._threads.close()
        self._requests.close()
        self._client.close()

    # ------------------------------------------------------------------ in a thread, from here on

    def _stat(self, bucket: str, name: str, generation: int | None) -> ObjectInfo:
        with self._errors("reading", bucket, name):
            check_url_name(name)
            info: ObjectInfo = self._retry(self._requests.stat)(bucket, name, generation)
        return info

    def _read(self, bucket: str, name: str, generation: int | None, on_found: OnFound) -> StoredObject:
        for _ in range(_READ_TRIES):
            info = self._stat(bucket, name, generation)
            on_found(info)
            try:
                data = self._download(info)
            except ObjectMissing:
                if generation is not None:
                    raise
                wrong = "it was replaced meanwhile"  # whether it is still there, the next `_stat` says
                continue
            checksum = crc32c(data)
            if (len(data), checksum) == (info.size, info.crc32c):
                return StoredObject(info, data)
            wrong = f"{len(data)} bytes of CRC-32C {checksum} came, not {info.size} of {info.crc32c}"
        raise StoreUnavailable(f"reading gs://{bucket}/{name} failed {_READ_TRIES} times: {wrong}")

    def _download(self, info: ObjectInfo) -> bytes:
        with self._errors("reading", info.bucket, info.name):
            data: bytes = self._retry(self._requests.fetch)(info)
        return data

    def _pieces(self, bucket: str, name: str, generation: int | None) -> Generator[bytes, None, None]:
        info = self._stat(bucket, name, generation)
        with self._errors("reading", bucket, name):
            yield from verified(info, self._retry(self._requests.begin)(info, STREAM_BYTES))

    def _write(
        self, bucket: str, resource: Mapping[str, Any], data: bytes, expected: int | None
    ) -> ObjectInfo:
        name, sent = resource["name"], resource["crc32c"]
        tries = 0

        def upload() -> ObjectInfo:
            nonlocal tries
            tries += 1
            return self._requests.upload(bucket, resource, data, expected)

        with self._errors("writing", bucket, name):
            check_url_name(name)
            try:
                info: ObjectInfo = self._retry(upload)()
            except api.PreconditionFailed:
                applied = self._applied_by_an_earlier_try(bucket, name, sent) if tries > 1 else None
                if applied is None:
                    raise
                return applied
        if info.crc32c != sent:
            raise StoreUnavailable(f"{info.url} was stored with CRC-32C {info.crc32c}, {sent} was sent")
        return info

    def _applied_by_an_earlier_try(self, bucket: str, name: str, sent: str) -> ObjectInfo | None:
        """Return the object if it holds the very bytes of a conditional write that we had to repeat.

        The first try's answer was lost, but the write may have been applied: then the second is refused
        because of the first. Without a repeat, equal bytes are another writer's.
        """
        try:
            info = self._stat(bucket, name, None)
        except ObjectMissing:
            return None
        return info if info.crc32c == sent else None

    def _delete(self, bucket: str, name: str, expected: int | None) -> None:
        try:
            with self._errors("deleting", bucket, name):
                check_url_name(name)
                self._retry(self._requests.delete)(bucket, name, expected)
        except ObjectMissing:
            return

    def _page(self, listing: Listing, token: str | None) -> tuple[Sequence[ObjectInfo], str | None]:
        with self._errors("listing", listing.bucket, listing.prefix):
            page, following = page_of(self._client, listing, token, timeout=self._timeout, retry=self._retry)
            return [_info(blob) for blob in page], following

    @contextmanager
    def _errors(self, doing: str, bucket: str, name: str) -> Iterator[None]:
        """Translate what Google's libraries raise into our errors, and remember that the bucket is there."""
        check_bucket_name(bucket)
        url = f"gs://{bucket}/{name}"
        try:
            yield
            self._bucket_seen[bucket] = time.monotonic()
        except api.NotFound as error:
            if doing in {"reading", "deleting"} and self._has(bucket):
                raise ObjectMissing(f"{url} does not exist") from error
            raise StoreMisconfigured(f"{doing} {url}: there is no bucket {bucket!r}") from error
        except api.PreconditionFailed as error:
            raise PreconditionFailed(f"{doing} {url}: {error.message}") from error
        except (api.Unauthorized, api.Forbidden) as error:
            raise StoreMisconfigured(f"{doing} {url}: {error.message}") from error
        except api.BadRequest as error:
            if "crc32c" in error.message.lower():  # damaged on the way
                raise StoreUnavailable(f"{doing} {url}: {error.message}") from error
            raise InvalidInput(f"{doing} {url}: {error.message}") from error
        except auth.GoogleAuthError as error:
            if isinstance(error, auth.TransportError) or error.retryable:
                raise StoreUnavailable(f"{doing} {url}: no token to be had: {error}") from error
            raise StoreMisconfigured(f"{doing} {url}: {error}") from error
        except (
            api.GoogleAPIError, requests.RequestException, urllib3.exceptions.HTTPError,
            http.client.HTTPException, OSError,
        ) as error:  # fmt: skip
            raise StoreUnavailable(f"{doing} {url}: {error}") from error

    def _has(self, bucket: str) -> bool:
        """Ask whether the bucket exists, unless it answered a moment ago.

        By listing, since a worker may read objects without the right to see the bucket itself.
        """
        if time.monotonic() - self._bucket_seen.get(bucket, -math.inf) < _BUCKET_KNOWN_S:
            return True
        try:
            self._page(Listing(bucket, "", size=1), None)
        except StoreMisconfigured as error:
            return isinstance(error.__cause__, api.Forbidden)
        return True


def _credentials(*, anonymous: bool) -> Any:
    # Typed `Any`: google-auth annotates its classes in part.
    if anonymous:
        return AnonymousCredentials()  # type: ignore[no-untyped-call]
    try:
        return google.auth.default(scopes=[_SCOPE])[0]
    except auth.GoogleAuthError as error:
        raise StoreMisconfigured(f"no credentials for Cloud Storage: {error}") from error


def _info(blob: storage.Blob) -> ObjectInfo:
    return ObjectInfo(
        blob.bucket.name,
        blob.name,
        int(blob.generation),
        int(blob.size),
        blob.content_type or "application/octet-stream",
        blob.metadata or {},
        blob.crc32c or "",
    )
