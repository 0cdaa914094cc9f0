"""The two requests that carry bytes, over the JSON API itself.

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
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import requests
from google.api_core import exceptions as api
from google.auth.transport.requests import AuthorizedSession

from consumer.storage import ObjectInfo

_CHUNK_BYTES = 1 << 18


class ObjectRequests:
    """Uploads and downloads, each once.

    What they raise is `requests`', `urllib3`'s, google-auth's, or the status as an exception of
    `google.api_core`: what the retries of Google's client know.

    Args:
        session: authorized; shared with the client.
        endpoint: the API's, such as `https://storage.googleapis.com`.
        timeout: seconds to connect, and seconds of silence.
    """

    def __init__(self, session: AuthorizedSession, endpoint: str, timeout: tuple[float, float]) -> None:
        self._session = session
        self._endpoint = endpoint
        self._timeout = timeout

    def fetch(self, info: ObjectInfo) -> bytes:
        """Read the bytes of one generation, from the start, into one buffer; as they are stored."""
        buffer = io.BytesIO()
        with self._session.get(
            f"{self._endpoint}/download/storage/v1/b/{_quoted(info.bucket)}/o/{_quoted(info.name)}",
            params={"alt": "media", "generation": str(info.generation)},
            headers={"Accept-Encoding": "gzip"},  # else what is stored compressed would be unpacked for us
            stream=True,
            timeout=self._timeout,
        ) as response:
            _raise_for(response)
            for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                buffer.write(chunk)
                if buffer.tell() > info.size:
                    break  # not the object that was announced; its size is what memory was reckoned with
        return buffer.getvalue()  # shares the buffer's memory

    def upload(
        self, bucket: str, resource: Mapping[str, Any], data: bytes, expected: int | None
    ) -> ObjectInfo:
        """Send metadata and bytes in one request, as the JSON API's `uploadType=multipart`."""
        boundary = uuid.uuid4().hex
        head = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(resource)}\r\n"
            f"--{boundary}\r\nContent-Type: {resource['contentType']}\r\n\r\n"
        )
        params = {"uploadType": "multipart"}
        if expected is not None:
            params["ifGenerationMatch"] = str(expected)
        response = self._session.post(
            f"{self._endpoint}/upload/storage/v1/b/{_quoted(bucket)}/o",
            params=params,
            data=b"".join((head.encode(), data, f"\r\n--{boundary}--\r\n".encode())),
            headers={"Content-Type": f'multipart/related; boundary="{boundary}"'},
            timeout=self._timeout,
        )
        _raise_for(response)
        stored = response.json()
        return ObjectInfo(
            bucket,
            resource["name"],
            int(stored["generation"]),
            int(stored["size"]),
            stored.get("contentType", resource["contentType"]),
            stored.get("metadata", {}),
            stored.get("crc32c", ""),
        )


def _quoted(part: str) -> str:
    return quote(part, safe="")


def _raise_for(response: requests.Response) -> None:
    if response.status_code != http.HTTPStatus.OK:
        raise api.from_http_response(response)  # type: ignore[no-untyped-call]
