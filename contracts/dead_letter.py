"""The attributes a dead letter carries beside the original message's own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import ConfigDict, Field

from contracts.attributes import AttributesContract
from contracts.base import Contract

PREFIX = "mlworker-"
REPLAY_COUNT = f"{PREFIX}replay-count"
"""The attribute that tells how often a message was replayed; a replay itself has it too."""


def attribute_of(field: str) -> str:
    """Return the attribute that carries a field of `DeadLetterAttributes`."""
    return f"{PREFIX}{field.replace('_', '-')}"


class DeadLetterAttributes(AttributesContract):
    """Why a message was given up: attributes beside the original message's own."""

    model_config = ConfigDict(alias_generator=attribute_of)

    error_code: str
    error_class: str
    error_message: str
    step_path: str | None = None
    attempts: int = Field(ge=0)
    source_subscription: str
    source_message_id: str
    source_publish_time: datetime
    result_id: str | None = None
    worker_version: str
    trace_id: str | None = None
    failed_at: datetime
    replay_count: int = 0
    claim_check: str | None = None
    """`gs://` url of the original body and attributes, when they do not fit beside these."""


def replays_of(attributes: Mapping[str, str]) -> int:
    """Return how often a message was replayed; what is no count is none."""
    value = attributes.get(REPLAY_COUNT, "0")
    return int(value) if value.isdecimal() and len(value) < 6 else 0


class StoredMessage(Contract):
    """A message too large for the dead-letter topic, as it is kept in the bucket."""

    data_base64: str
    attributes: dict[str, str]
