"""A backend that takes callbacks, keeps account of what took effect, and misbehaves on demand."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from tests.faults.misbehaving import Answer, Fault, MisbehavingServer, Received


@dataclass(frozen=True)
class Effect:
    """A callback that changed something in the backend."""

    key: str
    """Its Idempotency-Key."""
    event: str
    """`result` or `error`."""
    image_id: str
    at: float
    body: dict[str, Any] = field(repr=False)


class FaultyBackend(MisbehavingServer):
    """One backend.

    Attributes:
        deduplicates: whether a key that was seen before changes nothing again.
        effects: what changed something, oldest first.
    """

    def __init__(self, *, deduplicates: bool = True) -> None:
        super().__init__()
        self.deduplicates = deduplicates
        self.effects: list[Effect] = []
        self.repeats: list[str] = []
        """Keys of callbacks that came again after they had taken effect."""
        self._known: set[str] = set()

    def answer(self, request: Received) -> Answer:
        key = request.headers["idempotency-key"]
        if key in self._known:
            self.repeats.append(key)
        if self.deduplicates and key in self._known:
            return Answer(body=b'{"duplicate": true}')
        self._known.add(key)
        body = json.loads(request.body)
        event = request.headers["x-mlworker-event"]
        self.effects.append(Effect(key, event, image_id_of(body), time.monotonic(), body))
        return Answer()

    def fail(self, image_id: str | None = None, **how: Any) -> Fault:
        """Misbehave at all callbacks, or those about one image."""

        def only(request: Received) -> bool:
            return image_id is None or image_id_of(json.loads(request.body)) == image_id

        return self.misbehave(only=only, **how)

    def received(self, image_id: str | None = None) -> list[Received]:
        """Every callback that arrived, whatever became of it."""
        requests = [exchange.request for exchange in list(self.exchanges)]
        return [r for r in requests if image_id is None or image_id_of(json.loads(r.body)) == image_id]

    def effects_of(self, image_id: str) -> list[Effect]:
        return [effect for effect in list(self.effects) if effect.image_id == image_id]


def image_id_of(body: dict[str, Any]) -> str:
    return str(body.get("imageId") or body.get("image_id") or "")
