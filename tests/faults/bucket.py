"""A bucket that speaks as much of Cloud Storage's JSON API as the worker uses, and misbehaves on demand."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote

from consumer.storage.checksum import crc32c
from tests.faults.misbehaving import Answer, Fault, MisbehavingServer, Received

_PAGE = 1000


@dataclass(frozen=True)
class Stored:
    """An object."""

    name: str
    generation: int
    data: bytes = field(repr=False)
    content_type: str = "application/octet-stream"
    metadata: Mapping[str, str] = field(default_factory=dict)
    at: float = field(default_factory=time.monotonic)
    """When it was written."""


class BucketServer(MisbehavingServer):
    """One bucket in memory.

    Attributes:
        objects: by name, as they are now.
        writes: every object that was ever written, oldest first.
        deleted: the names of objects that were deleted.
    """

    def __init__(self, name: str = "photos") -> None:
        super().__init__()
        self.name = name
        self.objects: dict[str, Stored] = {}
        self.writes: list[Stored] = []
        self.deleted: list[str] = []
        self.is_there = True
        self._generation = 1_000

    def put(self, name: str, data: bytes, content_type: str = "image/jpeg", **metadata: str) -> Stored:
        """Write an object from outside."""
        with self._lock:
            return self._put(name, data, content_type, metadata)

    def remove(self, name: str) -> None:
        """Delete an object from outside."""
        with self._lock:
            del self.objects[name]

    def names(self, pattern: str = "*") -> list[str]:
        with self._lock:
            return sorted(name for name in self.objects if fnmatchcase(name, pattern))

    def fail(self, kind: str = "*", name: str = "*", body: bytes = b"", **how: Any) -> Fault:
        """Misbehave at requests of a kind (`stat`, `media`, `upload`, `delete`, `list`) about such names.

        Only at those whose body contains these bytes.
        """

        def only(request: Received) -> bool:
            is_about = fnmatchcase(kind_of(request), kind) and fnmatchcase(name_of(request), name)
            return is_about and body in request.body

        return self.misbehave(only=only, **how)

    def asked(self, kind: str = "*", name: str = "*") -> int:
        """How many such requests came."""
        return sum(
            fnmatchcase(kind_of(exchange.request), kind) and fnmatchcase(name_of(exchange.request), name)
            for exchange in list(self.exchanges)
        )

    def answer(self, request: Received) -> Answer:
        if not self.is_there or f"/b/{self.name}" not in request.path:
            return _error(404, "The specified bucket does not exist.")
        match kind_of(request):
            case "list":
                return self._list(request)
            case "upload":
                return self._upload(request)
            case "delete":
                return self._delete(request)
            case "bucket":
                return Answer(body=json.dumps({"name": self.name, "kind": "storage#bucket"}).encode())
            case kind:
                found = self.objects.get(name_of(request))
                if found is None or _wants_another(request, "generation", found.generation):
                    return _error(404, f"No such object: {self.name}/{name_of(request)}")
                if kind == "media":
                    return Answer(body=found.data, headers={"Content-Type": found.content_type})
                return self._described(found)

    def _put(self, name: str, data: bytes, content_type: str, metadata: Mapping[str, str]) -> Stored:
        self._generation += 1
        stored = Stored(name, self._generation, data, content_type, dict(metadata))
        self.objects[name] = stored
        self.writes.append(stored)
        return stored

    def _upload(self, request: Received) -> Answer:
        meta, data = _parts(request)
        current = self.objects[meta["name"]].generation if meta["name"] in self.objects else 0
        if _wants_another(request, "ifGenerationMatch", current):
            return _error(412, "At least one of the pre-conditions you specified did not hold.")
        if meta.get("crc32c") not in (None, crc32c(data)):
            return _error(400, "Provided CRC32C doesn't match calculated CRC32C")
        content_type = meta.get("contentType", "application/octet-stream")
        return self._described(self._put(meta["name"], data, content_type, meta.get("metadata") or {}))

    def _delete(self, request: Received) -> Answer:
        found = self.objects.get(name_of(request))
        if found is None:
            return _error(404, f"No such object: {self.name}/{name_of(request)}")
        if _wants_another(request, "ifGenerationMatch", found.generation):
            return _error(412, "At least one of the pre-conditions you specified did not hold.")
        del self.objects[found.name]
        self.deleted.append(found.name)
        return Answer(204, b"")

    def _list(self, request: Received) -> Answer:
        prefix = request.query.get("prefix", [""])[0]
        after = request.query.get("pageToken", [""])[0]
        start = request.query.get("startOffset", [""])[0]
        most = int(request.query.get("maxResults", [str(_PAGE)])[0])
        found = [name for name in sorted(self.objects) if name.startswith(prefix)]
        names = [name for name in found if name > after and name >= start]
        page = {"kind": "storage#objects", "items": [self._resource(self.objects[n]) for n in names[:most]]}
        if len(names) > most:
            page["nextPageToken"] = names[most - 1]
        return Answer(body=json.dumps(page).encode())

    def _described(self, stored: Stored) -> Answer:
        return Answer(body=json.dumps(self._resource(stored)).encode())

    def _resource(self, stored: Stored) -> dict[str, Any]:
        return {
            "kind": "storage#object",
            "bucket": self.name,
            "name": stored.name,
            "generation": str(stored.generation),
            "metageneration": "1",
            "updated": datetime.fromtimestamp(time.time() - time.monotonic() + stored.at, UTC).isoformat(),
            "size": str(len(stored.data)),
            "crc32c": crc32c(stored.data),
            "contentType": stored.content_type,
            "metadata": dict(stored.metadata),
        }


def kind_of(request: Received) -> str:
    """`stat`, `media`, `upload`, `delete`, `list` or `bucket`."""
    if request.path.startswith("/upload/"):
        return "upload"
    if request.method == "DELETE":
        return "delete"
    if request.path.endswith("/o"):
        return "list"
    if "/o/" not in request.path:
        return "bucket"
    return "media" if "media" in request.query.get("alt", ()) else "stat"


def name_of(request: Received) -> str:
    """The object a request is about; of a list, the prefix."""
    if request.path.startswith("/upload/"):
        return str(_parts(request)[0]["name"])
    if request.path.endswith("/o"):
        return request.query.get("prefix", [""])[0]
    return unquote(request.path.partition("/o/")[2])


def _parts(request: Received) -> tuple[dict[str, Any], bytes]:
    """Metadata and bytes of a multipart upload."""
    match = re.search(r'boundary="?([^";]+)', request.headers["content-type"])
    assert match, request.headers["content-type"]
    _, resource, content = request.body.split(b"--" + match[1].encode() + b"\r\n")
    data = content.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--" + match[1].encode() + b"--")[0]
    meta: dict[str, Any] = json.loads(resource.partition(b"\r\n\r\n")[2])
    return meta, data


def _wants_another(request: Received, parameter: str, current: int) -> bool:
    return request.query.get(parameter, [str(current)]) != [str(current)]


def _error(status: int, message: str) -> Answer:
    return Answer(status, json.dumps({"error": {"code": status, "message": message}}).encode())
