"""200 malformed messages, and what they do to a worker: `make hostile`, or `python -m tools.hostile`.

Each must become a dead letter with the right reason. Good photos are processed before and after, in blocks:
memory afterwards must be at most 5 % higher, throughput at least 95 % of what it was.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import hashlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from consumer.broker import Delivery
from consumer.local.stack import LocalStack
from consumer.ops.allocator import bound_allocator
from consumer.ops.logging import configure_logging
from contracts.dead_letter import StoredMessage
from tools.hostile_messages import hostile_messages

COUNT = 200
BLOCKS, PHOTOS = 5, 16
MEMORY, THROUGHPUT = 1.05, 0.95
PIPELINE = {"steps": [{"type": "step", "name": "detection"}, {"type": "step", "name": "count"}]}


@dataclass
class Report:
    """What was measured."""

    messages: int = 0
    dead_letters: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory_before: int = 0
    memory_after: int = 0
    throughput_before: float = 0.0
    throughput_after: float = 0.0

    @property
    def memory_ratio(self) -> float:
        """Resident memory after ÷ before."""
        return self.memory_after / self.memory_before

    @property
    def throughput_ratio(self) -> float:
        """Median photos a second after ÷ before."""
        return self.throughput_after / self.throughput_before

    @property
    def holds(self) -> bool:
        """Whether everything is as promised."""
        return (
            self.dead_letters == self.messages == COUNT
            and not self.wrong
            and self.memory_ratio <= MEMORY
            and self.throughput_ratio >= THROUGHPUT
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report for machines."""
        return {
            "messages": self.messages,
            "dead_letters": self.dead_letters,
            "reasons": dict(self.reasons),
            "wrong": self.wrong,
            "memory_ratio": round(self.memory_ratio, 4),
            "throughput_ratio": round(self.throughput_ratio, 4),
            "photos_per_second": [round(self.throughput_before, 2), round(self.throughput_after, 2)],
            "memory_mb": [self.memory_before >> 20, self.memory_after >> 20],
            "holds": self.holds,
        }


async def attack(folder: Path) -> Report:
    """Run the whole of it in `folder`."""
    report = Report()
    settings = {"max_image_bytes": 20_000_000, "max_image_pixels": 50_000_000, "slots": 4}
    async with LocalStack(folder, settings=settings, routes=[]) as stack:
        await stack.upload("acme/originals/good.jpg", _photo())
        await _block(stack)  # caches, thread pools and allocators reach their size
        await _block(stack)
        before = [await _block(stack) for _ in range(BLOCKS)]
        report.memory_before = _resident()
        expected = await _send(stack)
        report.messages = len(expected)
        await stack.wait_until(lambda: len(stack.dead_letters.deliveries) >= COUNT, 300)
        await stack.settled()
        after = [await _block(stack) for _ in range(BLOCKS)]
        report.memory_after = _resident()
        report.throughput_before, report.throughput_after = map(statistics.median, (before, after))
        await _judge(stack, expected, report)
    return report


async def _send(stack: LocalStack) -> dict[str, tuple[str, str]]:
    """Publish the messages; return kind and expected code by fingerprint, so that no message is kept here."""
    expected = {}
    for message in hostile_messages(COUNT):
        if message.object is not None:
            name, content = message.object
            await stack.upload(name, content)
        await stack.publish_bytes(message.data, **message.attributes)
        expected[_fingerprint(message.data, message.attributes)] = (message.kind, message.code)
    return expected


async def _block(stack: LocalStack) -> float:
    """Process a block of good photos and return photos a second."""
    runs = len(stack.runs)
    started = time.perf_counter()
    for _ in range(PHOTOS):
        request = {
            "tenant_id": "acme",
            "session_id": str(uuid4()),
            "image_id": str(uuid4()),
            "image_url": stack.url("acme/originals/good.jpg"),
            "pipeline_definition": PIPELINE,
        }
        await stack.publish_bytes(json.dumps(request).encode())
    await stack.wait_until(lambda: len(stack.runs) >= runs + PHOTOS, 300)
    return PHOTOS / (time.perf_counter() - started)


async def _judge(stack: LocalStack, expected: dict[str, tuple[str, str]], report: Report) -> None:
    letters = stack.dead_letters.deliveries
    report.dead_letters = len(letters)
    for letter in letters:
        found = letter.attributes.get("mlworker-error-code", "none")
        report.reasons[found] += 1
        kind, code = expected.get(
            _fingerprint(*await _original(stack, letter)), ("not one of ours", "nothing")
        )
        if found != code:
            text = letter.attributes.get("mlworker-error-message", "")
            report.wrong.append(f"{kind}: expected {code}, got {found}: {text[:200]}")


def _fingerprint(data: bytes, attributes: Mapping[str, str]) -> str:
    return hashlib.sha256(data + repr(sorted(attributes.items())).encode()).hexdigest()


async def _original(stack: LocalStack, letter: Delivery) -> tuple[bytes, dict[str, str]]:
    """Return body and attributes as they were sent, wherever the dead letter keeps them."""
    check = letter.attributes.get("mlworker-claim-check")
    if check is None:
        own = {key: value for key, value in letter.attributes.items() if not key.startswith("mlworker-")}
        return letter.data, own
    stored = await stack.store.read(stack.bucket, check.removeprefix(stack.url("")))
    message = StoredMessage.model_validate_json(stored.data)
    return base64.b64decode(message.data_base64), message.attributes


def _photo() -> bytes:
    noise = np.random.default_rng(7).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def _resident() -> int:
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not say how much memory a process uses")


def main() -> int:
    """Run the attack and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args()
    bound_allocator()
    configure_logging("ERROR", "json")
    with tempfile.TemporaryDirectory() as folder, Path(folder, "worker.log").open("w") as log:
        sys.stderr = log
        try:
            report = asyncio.run(attack(Path(folder) / "site"))
        finally:
            sys.stderr = sys.__stderr__
    if arguments.json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        for name, value in report.as_json().items():
            print(f"{name:20} {value}")
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
