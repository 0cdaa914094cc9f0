"""A job: what any message becomes, whichever family it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

import orjson
from pydantic import JsonValue

from contracts.pipeline import PipelineDefinition
from pipeline_steps.context import JobInfo


@dataclass(frozen=True, slots=True)
class Source:
    """The object to process."""

    bucket: str
    name: str
    generation: int | None = None
    """Pinned when the message names one."""

    @property
    def url(self) -> str:
        """`gs://bucket/name`."""
        return f"gs://{self.bucket}/{self.name}"


@dataclass(frozen=True, slots=True)
class Ids:
    """Whose photo it is, where a message's body tells."""

    tenant_id: str
    session_id: UUID
    image_id: UUID


@dataclass(frozen=True, slots=True)
class Job:
    """One photo and what to do with it."""

    ids: Ids
    source: Source
    definition: PipelineDefinition
    settings: Mapping[str, JsonValue]
    result_id: str
    """Names this work, whoever does it and however often: sha256, hexadecimal."""
    callback_url: str | None = None
    wants_callback: bool = True
    pipeline_name: str | None = None
    trace_parent: str | None = None
    replay_count: int = 0
    warnings: tuple[str, ...] = field(default=())

    @property
    def info(self) -> JobInfo:
        """What steps are told."""
        return JobInfo(self.ids.tenant_id, str(self.ids.session_id), str(self.ids.image_id), self.source.url)


def result_id(
    ids: Ids,
    source: Source,
    definition: JsonValue,
    settings: Mapping[str, JsonValue],
    *,
    forced_by: str | None = None,
) -> str:
    """Return the identity of a piece of work, from nothing but the message.

    Args:
        ids: tenant, session, image.
        source: the object; its generation counts only if the message names it.
        definition: the pipeline as the message carries it, before defaults, so that a newer worker's
            defaults do not change the identity of older messages.
        settings: the message's settings.
        forced_by: the message's id, when it asks to be run whatever was recorded.
    """
    parts = [
        ids.tenant_id,
        str(ids.session_id),
        str(ids.image_id),
        source.url,
        source.generation,
        definition,
        dict(settings),
        forced_by,
    ]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def of_generation(result_id: str, generation: int) -> str:
    """Return the identity of the same work on a photo that replaced the recorded one."""
    return hashlib.sha256(f"{result_id}#{generation}".encode()).hexdigest()
