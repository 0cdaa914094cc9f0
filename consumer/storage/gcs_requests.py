"""The requests about single objects, over the JSON API itself.

Google's client is left out of these, five of which go with every photo: what it does around a request takes
more processor time than a request over a kept connection.

- **Uploads are single requests**, whatever their size. Google's client turns to resumable uploads over 8 MB,
  for which an emulator ignores preconditions, and a photo is one request's worth anyway.
- **Downloads begin at the start.** Google's client resumes a broken one, does not check what it pieced
  together, and leaves the connection of a refused one open.
"""

from __future__ import annotations

import http
import io
import json
import uuid
from collections.abc import Generator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlencode

import requests
import urllib3
from google.api_core import exceptions as api
from google.auth.transport.requests import Request
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy

from consumer.storage import ObjectInfo

_CHUNK_BYTES = 1 << 18


class ObjectRequests:
    """Requests about single objects, each made once, on any thread.

    What they raise is `urllib3`'s, google-auth's, a `ConnectionError`, or the status as an exception of
    `google.api_core`: what the retries of Google's client know.

    Args:
        credentials: of google-auth.
        endpoint: the API's, such as `https://storage.googleapis.com`.
        timeout: seconds to connect, and seconds of silence.
        connections: how many are kept.
    """

    def __init__(
        self, credentials: Any, endpoint: str, timeout: tuple[float, float], connections: int
    ) -> None:
        self._pool, self._prefix = _pool(endpoint, connections)
        self._credentials = credentials
        # Of its own, by the environment: the metadata server is not behind the proxy that the API is behind.
        self._tokens = Request()
        connect, silence = timeout
        self._timeout = urllib3.Timeout(connect=connect, read=silence)

    def stat(self, bucket: str, name: str, generation: int | None) -> ObjectInfo:
        """Ask what is known of an object, or of one generation of it."""
        response = self._send("GET", self._target("storage", bucket, name, generation=generation))
        stored = json.loads(response.data)
        return _info(bucket, stored, _age(stored.get("updated"), response.headers.get("Date")))

    def fetch(self, info: ObjectInfo) -> bytes:
        """Read the bytes of one generation, from the start, into one buffer; as they are stored."""
        buffer = io.BytesIO()
        for chunk in self.begin(info, _CHUNK_BYTES):
            buffer.write(chunk)
        return buffer.getvalue()  # shares the buffer's memory

    def begin(self, info: ObjectInfo, chunk_bytes: int) -> Generator[bytes, None, None]:
        """Ask for the bytes of one generation; they are read, as they are stored, while one iterates.

        Of more than was announced, by which memory was reckoned, only the first chunk is read.
        """
        target = self._target(
            "download/storage", info.bucket, info.name, alt="media", generation=info.generation
        )
        # Without the header, what is stored compressed would be unpacked for us.
        response = self._send("GET", target, headers={"Accept-Encoding": "gzip"}, preload_content=False)
        return _chunks(response, info.size, chunk_bytes)

    def upload(
        self, bucket: str, resource: Mapping[str, Any], data: bytes, expected: int | None
    ) -> ObjectInfo:
        """Send metadata and bytes in one request, as the JSON API's `uploadType=multipart`."""
        boundary = uuid.uuid4().hex
        head = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(resource)}\r\n"
            f"--{boundary}\r\nContent-Type: {resource['contentType']}\r\n\r\n"
        )
        response = self._send(
            "POST",
            self._target("upload/storage", bucket, uploadType="multipart", ifGenerationMatch=expected),
            body=b"".join((head.encode(), data, f"\r\n--{boundary}--\r\n".encode())),
            headers={"Content-Type": f'multipart/related; boundary="{boundary}"'},
        )
        return _info(bucket, {**resource, **json.loads(response.data)})

    def delete(self, bucket: str, name: str, expected: int | None) -> None:
        """Delete an object."""
        self._send("DELETE", self._target("storage", bucket, name, ifGenerationMatch=expected))

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def _target(self, service: str, bucket: str, name: str | None = None, **query: str | int | None) -> str:
        path = f"{self._prefix}/{service}/v1/b/{quote(bucket, safe='')}/o"
        if name is not None:
            path += f"/{quote(name, safe='')}"
        asked = {key: value for key, value in query.items() if value is not None}
        return f"{path}?{urlencode(asked)}" if asked else path

    def _send(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        preload_content: bool = True,
    ) -> Any:
        """Return the answer to a request that succeeded; read, unless that is left to the caller."""
        response = self._answer(method, target, body, headers or {}, preload_content)
        if response.status == http.HTTPStatus.UNAUTHORIZED:  # a token that was revoked before its time
            response.drain_conn()
            self._credentials.refresh(self._tokens)
            response = self._answer(method, target, body, headers or {}, preload_content)
        if response.status not in {http.HTTPStatus.OK, http.HTTPStatus.NO_CONTENT}:
            raise _refusal(method, target, response.status, response.data)
        return response

    def _answer(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], preload_content: bool
    ) -> Any:
        signed = dict(headers)
        self._credentials.before_request(self._tokens, method, target, signed)
        try:
            return self._pool.urlopen(
                method, target, body, signed, timeout=self._timeout, retries=False, redirect=False,
                assert_same_host=False, preload_content=preload_content, decode_content=False,
            )  # fmt: skip
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ProxyError) as error:
            # Of these the retries of Google's client know nothing.
            raise ConnectionError(str(error)) from error


def _pool(endpoint: str, count: int) -> tuple[urllib3.HTTPConnectionPool, str]:
    """Return what keeps connections, and with what its requests' targets begin.

    Certificates and proxy are those that `requests` would use. The pool itself is asked, since a manager of
    pools takes twice the request's own processor time to find it.
    """
    told = requests.Session().merge_environment_settings(endpoint, {}, None, None, None)
    trusted = told["verify"] if isinstance(told["verify"], str) else DEFAULT_CA_BUNDLE_PATH
    proxy = select_proxy(endpoint, told["proxies"])
    manager = urllib3.PoolManager(maxsize=count, cert_reqs="CERT_REQUIRED", ca_certs=trusted)
    if proxy:
        headers = requests.adapters.HTTPAdapter().proxy_headers(proxy)
        manager = urllib3.ProxyManager(
            proxy, maxsize=count, cert_reqs="CERT_REQUIRED", ca_certs=trusted, proxy_headers=headers
        )
    address = urllib3.util.parse_url(endpoint)
    # A proxy that reads along is told the whole address; through a tunnel goes what the API itself is told.
    is_read_along = proxy and address.scheme == "http"
    return manager.connection_from_url(endpoint), endpoint if is_read_along else address.path or ""


def _chunks(response: Any, size: int, chunk_bytes: int) -> Generator[bytes, None, None]:
    arrived, is_over = 0, False
    try:
        for chunk in response.stream(chunk_bytes, decode_content=False):
            arrived += len(chunk)
            yield chunk
            if arrived > size:
                return
        is_over = True
    finally:
        if not is_over:
            response.close()  # what is left unread would stand before the connection's next answer
        response.release_conn()


def _refusal(method: str, url: str, status: int, body: bytes) -> Exception:
    """Return the answer as an exception; the API says in JSON why, whoever else answers does not."""
    try:
        why = json.loads(body)["error"]["message"]
    except (ValueError, LookupError, TypeError):
        why = body[:200].decode(errors="replace") or "unknown error"
    error: Exception = api.from_http_status(status, f"{method} {url}: {why}")  # type: ignore[no-untyped-call]
    return error


def _age(updated: str | None, date: str | None) -> float:
    """Return the seconds from a write to an answer that tells of it, by the API's clock; 0 if unknown."""
    try:
        # The answer's time has no fraction, so that this may be a second too few, and never too many.
        age = parsedate_to_datetime(date or "") - datetime.fromisoformat(updated or "")
    except (ValueError, TypeError):
        return 0.0
    return max(0.0, age.total_seconds())


def _info(bucket: str, stored: Mapping[str, Any], age: float = 0.0) -> ObjectInfo:
    """Return what the API says of an object."""
    return ObjectInfo(
        bucket,
        stored["name"],
        int(stored["generation"]),
        int(stored["size"]),
        stored.get("contentType") or "application/octet-stream",
        stored.get("metadata") or {},
        stored.get("crc32c") or "",
        age,
    )
