"""Malformed messages of every kind, each with the reason it must be dead-lettered for."""

from __future__ import annotations

import io
import itertools
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
from PIL import Image

BUCKET = "nursery-photos"
STEP = {"type": "step", "name": "detection"}


@dataclass(frozen=True)
class Hostile:
    """One message, and what must become of it."""

    kind: str
    code: str
    data: bytes
    attributes: dict[str, str] = field(default_factory=dict)
    object: tuple[str, bytes] | None = None
    """An object to put into the bucket first."""


def hostile_messages(count: int) -> Iterator[Hostile]:
    """Yield that many, all different, the kinds in turn."""
    makers: list[Callable[[int], Hostile]] = [
        _broken_json,
        _wrong_type,
        _unknown_step,
        _deep_nesting,
        _foreign_path,
        _missing_object,
        _text_as_jpeg,
        _bomb,
        _zero_bytes,
        _many_attributes,
        _large,
        _truncated,
        _wrong_parameter,
        _bad_tenant,
        _too_many_elements,
        _evil_callback,
    ]
    turns = itertools.cycle(makers)
    for number in range(count):
        yield next(turns)(number)


def _request(number: int, *steps: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "tenant_id": "acme",
        "session_id": str(UUID(int=1000 + number)),
        "image_id": str(UUID(int=5000 + number)),
        "image_url": f"gs://{BUCKET}/acme/originals/good.jpg",
        "pipeline_definition": {"steps": list(steps) or [STEP]},
        **changes,
    }


def _bytes(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode()


def _broken_json(number: int) -> Hostile:
    whole = _bytes(_request(number))
    return Hostile("broken JSON", "malformed_message", whole[: len(whole) - 1 - number % 40])


def _wrong_type(number: int) -> Hostile:
    wrong = [("session_id", 7), ("image_url", ["gs://a/b"]), ("pipeline_definition", "all"), ("settings", [])]
    name, value = wrong[number // 16 % len(wrong)]
    return Hostile("wrong type", "malformed_message", _bytes(_request(number, **{name: value})))


def _unknown_step(number: int) -> Hostile:
    return Hostile(
        "unknown step", "invalid_pipeline", _bytes(_request(number, {"type": "step", "name": f"s{number}"}))
    )


def _deep_nesting(number: int) -> Hostile:
    depth = 10_000 + number
    nested = '{"type":"chain","steps":[' * depth + json.dumps(STEP) + "]}" * depth
    return Hostile(
        "deep nesting",
        "malformed_message",
        _bytes(_request(number)).replace(
            b'"pipeline_definition"', b'"pipeline_definition": ' + nested.encode() + b', "x"'
        ),
    )


def _foreign_path(number: int) -> Hostile:
    paths = ["other/originals/a.jpg", "acme/../other/a.jpg", "acme//a.jpg", "acmeX/a.jpg", "acme/./a.jpg"]
    url = f"gs://{BUCKET}/{paths[number // 16 % len(paths)]}"
    return Hostile("foreign path", "not_allowed", _bytes(_request(number, image_url=url)))


def _missing_object(number: int) -> Hostile:
    url = f"gs://{BUCKET}/acme/originals/missing-{number}.jpg"
    return Hostile("missing object", "object_missing", _bytes(_request(number, image_url=url)))


def _stored(number: int, kind: str, content: bytes) -> Hostile:
    name = f"acme/originals/{kind.replace(' ', '-')}-{number}.jpg"
    request = _request(number, image_url=f"gs://{BUCKET}/{name}")
    return Hostile(kind, "unreadable_image", _bytes(request), object=(name, content))


def _text_as_jpeg(number: int) -> Hostile:
    return _stored(number, "text as jpeg", f"Dear worker, this is picture {number}.\n".encode() * 40)


def _bomb(number: int) -> Hostile:
    """A PNG of 40 000 x 40 000 black pixels in a few kilobytes of honest zlib."""
    side = 40_000 + number
    rows = zlib.compress(bytes(2_000_000), 9)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    )
    return _stored(number, "decompression bomb", png)


def _zero_bytes(number: int) -> Hostile:
    return _stored(number, "zero bytes", b"")


def _many_attributes(number: int) -> Hostile:
    attributes = {f"attribute-{i}": f"{number}" for i in range(90)}
    return Hostile("90 attributes", "malformed_message", b"[]", attributes)


def _large(number: int) -> Hostile:
    steps = [{"type": "step", "name": "detection", "kwargs": {"model": "x" * 9_900_000}}]
    return Hostile("9.9 MB", "malformed_message", _bytes(_request(number, *steps)))


def _truncated(number: int) -> Hostile:
    pixels = np.random.default_rng(number).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, ["JPEG", "PNG", "WEBP"][number // 16 % 3])
    whole = buffer.getvalue()
    return _stored(number, "truncated", whole[: len(whole) // 2])


def _wrong_parameter(number: int) -> Hostile:
    wrong: Iterator[dict[str, Any]] = iter(
        [{"confidence": 2}, {"confidance": 0.5}, {"confidence": "high"}, {"model": "none-such"}]
    )
    kwargs = next(itertools.islice(wrong, number // 16 % 4, None))
    return Hostile(
        "wrong parameter", "invalid_pipeline", _bytes(_request(number, {**STEP, "kwargs": kwargs}))
    )


def _bad_tenant(number: int) -> Hostile:
    tenants = ["../other", "models", "a/b", "", "x" * 65, "tab\there"]
    tenant = tenants[number // 16 % len(tenants)]
    return Hostile("bad tenant", "malformed_message", _bytes(_request(number, tenant_id=tenant)))


def _too_many_elements(number: int) -> Hostile:
    return Hostile(
        "too many elements", "malformed_message", _bytes(_request(number, *[STEP] * (513 + number)))
    )


def _evil_callback(number: int) -> Hostile:
    urls = [
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "https://evil.example/results",
        "http://[::1",
    ]
    url = urls[number // 16 % len(urls)]
    return Hostile("evil callback", "callback_failed", _bytes(_request(number, callback_url=url)))
