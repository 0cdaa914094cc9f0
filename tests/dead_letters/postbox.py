"""A broker with dead letters in it, and what became of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from google.pubsub_v1 import types

from consumer.broker import Delivery
from consumer.broker.publisher import PubSubPublisher
from consumer.broker.pubsub import Endpoint
from consumer.broker.subscriber import PubSubSubscriber
from consumer.local.pubsub import EmbeddedPubSub
from consumer.outbound.dead_letter import DeadLetters, as_attributes
from consumer.storage import ObjectStore
from contracts.dead_letter import DeadLetterAttributes
from tests.command import COMMAND, bare_environment
from tests.invoke import invoke

PROJECT, BUCKET = "nursery", "photos"
REQUESTS, DEAD = (f"projects/{PROJECT}/topics/{name}" for name in ("requests", "dead-letters"))
WORK, DEAD_SUB = (f"projects/{PROJECT}/subscriptions/{name}" for name in ("work", "dead-letters"))
WAIT = "0.4"
"""Seconds after which the commands take the subscription to be empty: the embedded server is quick."""

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")


def reason(**changes: Any) -> DeadLetterAttributes:
    """Why a worker gave a message up."""
    now = datetime.now(UTC)
    given: dict[str, Any] = {
        "error_code": "invalid_pipeline",
        "error_class": "permanent",
        "error_message": "steps.1.name: no step is named 'detecton'",
        "step_path": "steps.1",
        "attempts": 1,
        "source_subscription": WORK,
        "source_message_id": "source-1",
        "source_publish_time": now - timedelta(minutes=2),
        "worker_version": "0.1.0",
        "failed_at": now - timedelta(minutes=1),
    }
    return DeadLetterAttributes.model_validate(given | changes)


def request(number: int = 0, **changes: Any) -> bytes:
    """A message as the backend sends it."""
    return json.dumps(
        {
            "tenant_id": "acme",
            "session_id": "550e8400-e29b-41d4-a716-446655440000",
            "image_id": f"660e8400-e29b-41d4-a716-{number:012d}",
            "image_url": f"gs://{BUCKET}/acme/originals/{number}.jpg",
            "pipeline_definition": {"steps": []},
            **changes,
        }
    ).encode()


def delivery(
    data: bytes = b"{}", attributes: Mapping[str, str] | None = None, *, message_id: str = "7"
) -> Delivery:
    """A dead letter as it is pulled."""
    published = datetime.now(UTC)
    return Delivery(f"ack-{message_id}", message_id, data, attributes or {}, published, None)


def letter_of(data: bytes, attributes: Mapping[str, str] | None = None, **changes: Any) -> Delivery:
    """A dead letter of a worker's."""
    return delivery(data, {**(attributes or {}), **as_attributes(reason(**changes))})


@dataclass
class PostBox:
    """Topics, their subscriptions, and a folder to run commands in."""

    broker: EmbeddedPubSub
    folder: Path

    def __post_init__(self) -> None:
        for topic in (REQUESTS, DEAD):
            self.broker.create_topic(topic)
        self.broker.create_subscription(WORK, REQUESTS, ack_deadline_seconds=60)
        self.broker.create_subscription(DEAD_SUB, DEAD, ack_deadline_seconds=600)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "DEAD_LETTER_SUBSCRIPTION": "dead-letters",
            "DEAD_LETTER_TOPIC": "dead-letters",
            "PUBSUB_EMULATOR_HOST": self.broker.address,
        }

    @property
    def audit(self) -> Path:
        return self.folder / "audit.jsonl"

    def die(self, data: bytes, attributes: Mapping[str, str] | None = None, **changes: Any) -> str:
        """Put a message into the dead-letter topic, as a worker does."""
        delivered = letter_of(data, attributes, **changes)
        return self.broker.publish(DEAD, delivered.data, **delivered.attributes)

    def forward(self, data: bytes, **attributes: str) -> None:
        """Put a message into the dead-letter topic, as Pub/Sub's own policy does."""
        source, sub = f"{REQUESTS}-forwarding", f"{WORK}-forwarding"
        self.broker.create_topic(source)
        policy = types.DeadLetterPolicy(dead_letter_topic=DEAD, max_delivery_attempts=5)
        self.broker.create_subscription(sub, source, dead_letter_policy=policy)
        self.broker.publish(source, data, **attributes)

        async def refuse() -> None:
            subscriber = PubSubSubscriber(sub, Endpoint(emulator=self.broker.address), pull_timeout=5)
            while self.broker.backlog(sub):
                for given in await subscriber.pull(1):
                    await subscriber.modify_deadline([given.ack_id], 0)
            await subscriber.close()

        asyncio.run(refuse())

    def command(self, *words: str | Path, stdin: bytes = b"", **variables: str) -> CompletedProcess[str]:
        """Run `mlworker dead-letters ...` and return what became of it."""
        options: list[str | Path] = []
        if words[0] != "import":
            options += ["--wait", WAIT]
        if words[0] not in ("list", "show", "stats"):
            options += ["--audit", self.audit]
        return invoke("dead-letters", *words, *options, stdin=stdin, **(self.environment | variables))

    def command_line(self, *words: str | Path) -> tuple[list[str], dict[str, str]]:
        """What to start for the same, in a process that the test holds on to."""
        line = [COMMAND, "dead-letters", *words, "--wait", WAIT, "--audit", self.audit]
        return [str(word) for word in line], bare_environment(**self.environment)

    def told(self, *words: str | Path, code: int = 0, **variables: str) -> dict[str, Any]:
        """Run a command with `--json`, and return what it prints."""
        done = self.command(*words, "--json", **variables)
        assert done.returncode == code, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    @property
    def left(self) -> int:
        """Dead letters that are not acked; none of them may be leased."""
        assert self.broker.leased(DEAD_SUB) == 0
        return self.broker.backlog(DEAD_SUB)

    def delivered(self, subscription: str = WORK) -> list[Delivery]:
        """Everything that waits on a subscription; it is acked."""
        return taken(self.broker, subscription)

    def audited(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit.read_text().splitlines()]


def taken(broker: EmbeddedPubSub, subscription: str) -> list[Delivery]:
    """Everything that waits on a subscription; it is acked."""

    async def all_of() -> list[Delivery]:
        subscriber = PubSubSubscriber(subscription, Endpoint(emulator=broker.address), pull_timeout=5)
        found: list[Delivery] = []
        while broker.backlog(subscription):
            given = await subscriber.pull(1000)
            found += given
            await subscriber.acknowledge([one.ack_id for one in given])
        await subscriber.close()
        return found

    return asyncio.run(all_of())


def die_by_reference(
    address: str, store: ObjectStore, data: bytes, attributes: Mapping[str, str], bucket: str = BUCKET
) -> str:
    """Let the worker's own part publish a dead letter."""

    async def publish() -> str:
        publisher = PubSubPublisher(PROJECT, Endpoint(emulator=address))
        letters = DeadLetters(publisher, "dead-letters", store, bucket)
        try:
            return await letters.publish(delivery(data, attributes, message_id="big-1"), reason())
        finally:
            await publisher.close()

    return asyncio.run(publish())
