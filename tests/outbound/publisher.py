"""A publisher that keeps what it was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PUBSUB_BYTES, PUBSUB_ATTRIBUTES, PUBSUB_VALUE = 10_000_000, 100, 1024
"""Pub/Sub's own limits."""


@dataclass
class Published:
    """A publisher that keeps what it was given, and refuses what Pub/Sub would."""

    messages: list[tuple[str, bytes, dict[str, str]]] = field(default_factory=list)

    async def publish(self, topic: str, data: bytes, attributes: Mapping[str, str]) -> str:
        size = len(data) + sum(len(name.encode()) + len(value.encode()) for name, value in attributes.items())
        assert size <= PUBSUB_BYTES
        assert len(attributes) <= PUBSUB_ATTRIBUTES
        assert all(len(value.encode()) <= PUBSUB_VALUE for value in attributes.values())
        assert data or attributes
        self.messages.append((topic, data, dict(attributes)))
        return f"id-{len(self.messages)}"

    async def close(self) -> None:
        pass
