"""What became of each photo of a demo: followed from its message to ack, result and callback."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID, uuid4

from consumer.broker import Delivery
from consumer.local.photos import DemoPhoto
from consumer.local.pipelines import ORIGINALS
from consumer.local.stack import LocalStack
from consumer.outcomes import Settle
from contracts.dead_letter import PREFIX
from contracts.pipeline import PipelineDefinition
from contracts.request import ProcessingRequest
from contracts.result import ProcessingResult

Trigger = Literal["message", "notification"]

UPLOADS = "uploads"
"""No route takes photos from here: their work starts with a message."""


@dataclass
class Sent:
    """A photo under way."""

    photo: DemoPhoto
    tenant_id: str
    trigger: Trigger
    url: str
    """Empty when the file could not even be read."""
    message_id: str | None = None
    session_id: UUID | None = None
    image_id: UUID | None = None
    is_acked: bool = False
    milliseconds: float = 0.0
    """From the message's delivery to its ack."""
    result: ProcessingResult | None = None
    has_callback: bool = False
    is_dead: bool = False
    problem: str = ""
    """Why it was not sent."""

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to come."""
        if self.problem:
            return True
        return self.is_acked and self.result is not None and (self.has_callback or self.is_dead)

    @property
    def status(self) -> str:
        """`succeeded`, `partial`, `failed`, or `unfinished`."""
        if self.result is not None:
            return self.result.status
        return "failed" if self.is_dead or self.problem else "unfinished"

    @property
    def reason(self) -> str:
        """Why it failed, if it did."""
        error = self.result.error if self.result else None
        return f"{error.code}: {error.message}" if error else self.problem


async def send(
    stack: LocalStack,
    photo: DemoPhoto,
    trigger: Trigger,
    tenant_id: str,
    session_id: UUID,
    definition: PipelineDefinition,
    species: Sequence[str],
) -> Sent:
    """Bring a photo to the worker: with a message of its own, or by dropping it into the bucket."""
    folder = ORIGINALS if trigger == "notification" else UPLOADS
    name = f"{tenant_id}/{folder}/{photo.name}"
    try:
        data = await asyncio.to_thread(photo.path.read_bytes)
    except OSError as error:
        return Sent(photo, tenant_id, trigger, "", problem=f"cannot be read: {error.strerror}")
    await stack.upload(name, data, content_type=photo.content_type)
    if trigger == "notification":
        return Sent(photo, tenant_id, trigger, stack.url(name))
    request = ProcessingRequest(
        tenant_id=tenant_id,
        session_id=session_id,
        image_id=uuid4(),
        image_url=stack.url(name),
        pipeline_definition=definition,
        settings={"species": list(species)},
    )
    message_id = await stack.publish(request)
    return Sent(photo, tenant_id, trigger, stack.url(name), message_id, session_id, request.image_id)


@dataclass
class Deliveries:
    """All photos of a demo, and what was heard of them so far."""

    stack: LocalStack
    sent: list[Sent] = field(default_factory=list)
    _results: dict[str, ProcessingResult] = field(default_factory=dict)
    """By the id of the results topic's message."""

    @property
    def finished(self) -> int:
        """How many photos nothing more is to come of."""
        return sum(sent.is_finished for sent in self.sent)

    async def look(self) -> None:
        """Take in all that has arrived. From the start each time: an answer may be quicker than `send`."""
        by_url = {sent.url: sent for sent in self.sent if sent.url}
        by_message = {sent.message_id: sent for sent in self.sent if sent.message_id}
        for one in self.stack.runs:
            about = _about(one.delivery, one.delivery.message_id, by_url, by_message)
            if about and one.outcome.settle is Settle.ACK:
                about.is_acked, about.milliseconds = True, one.seconds * 1000
        for delivery in self.stack.results.deliveries:
            if delivery.message_id not in self._results:
                self._results[delivery.message_id] = await self.stack.read_result(delivery)
        for result in self._results.values():
            about = by_url.get(result.image_url)
            if about:
                about.result, about.session_id, about.image_id = result, result.session_id, result.image_id
        for delivery in self.stack.dead_letters.deliveries:
            source_id = delivery.attributes.get(f"{PREFIX}source-message-id", "")
            about = _about(delivery, source_id, by_url, by_message)
            if about:
                about.is_dead = True
        called = {callback.key for callback in self.stack.backend.callbacks}
        for sent in self.sent:
            sent.has_callback = sent.result is not None and sent.result.result_id in called


def _about(
    delivery: Delivery, message_id: str, by_url: Mapping[str, Sent], by_message: Mapping[str, Sent]
) -> Sent | None:
    """Return whose photo a delivery is about: a request by its id, a notification by its object."""
    if message_id in by_message:
        return by_message[message_id]
    attributes = delivery.attributes
    return by_url.get(f"gs://{attributes.get('bucketId')}/{attributes.get('objectId')}")
