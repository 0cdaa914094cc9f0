"""From a delivery to a job: a request, a bucket's notification, or the backend's older message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import NAMESPACE_URL, UUID, uuid5

import orjson
from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError

from consumer.broker import Delivery
from consumer.errors import MalformedMessage, NoTenant, OversizedMessage, UnknownPreset
from consumer.jobs import Ids, Job, Source, result_id
from consumer.message_problems import look_at_envelope, look_at_request, nesting_problems, unread
from consumer.ops.tracing import trace_parent_of
from consumer.pipeline.definition import read_definition
from consumer.pipeline.limits import MAX_SETTINGS_BYTES, limit_problems, size_problems
from consumer.pipeline.problems import Problem, problems_of
from consumer.presets import OVERRIDE, Presets, override_problems, with_confidence
from consumer.routes import Routes, is_our_own
from contracts.base import Contract, JsonObject
from contracts.dead_letter import replays_of
from contracts.notification import EventType, StorageNotification
from contracts.request import (
    MAX_URL,
    NamedPipelineRequest,
    ObjectUrl,
    ProcessingRequest,
    TenantId,
    check_tenant_id,
    split_object_url,
)

FORCE = "mlworker-force"
OUTPUT_MARK = "mlworker-output"
"""Metadata of every object the worker writes; the value is the object's own `bucket/name`."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """A message that needs nothing done, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Notified:
    """A photo landed in a bucket; the object's metadata may still name its session, or say it is ours."""

    notification: StorageNotification


@dataclass(frozen=True, slots=True)
class Decoder:
    """Reads messages, with the operator's presets and routes."""

    presets: Presets
    routes: Routes
    max_bytes: int

    def decode(self, delivery: Delivery) -> Job | Notified | Ignored:
        """Return what the message asks for.

        Raises:
            MalformedMessage: with every problem, each with its path.
        """
        if "eventType" in delivery.attributes and "bucketId" in delivery.attributes:
            return self._notification(delivery)
        if len(delivery.data) > self.max_bytes:
            size = f"{len(delivery.data)} bytes; at most {self.max_bytes} are read (MAX_MESSAGE_BYTES)"
            raise OversizedMessage([Problem("(message)", size)])
        raw = _json(delivery.data)
        if "pipeline_definition" not in raw and "pipeline" in raw:
            return self._named(raw, delivery)
        return self._request(raw, delivery)

    def job_of(
        self, notification: StorageNotification, metadata: Mapping[str, str], delivery: Delivery
    ) -> Job | Ignored:
        """Return the job of a photo that landed in a bucket, now that its metadata is known."""
        where = f"{notification.bucket}/{notification.name}"
        if metadata.get(OUTPUT_MARK) == where:
            return Ignored("own_output")
        found = self.routes.find(notification.bucket, notification.name)
        if found is None:
            return Ignored("no_route")
        route, tenant = found
        try:
            check_tenant_id(tenant)
        except ValueError as error:
            raise NoTenant([Problem("objectId", f"tenant {tenant!r}: {error}")]) from error
        ids = ids_of_photo(tenant, where, notification.generation, metadata)
        source = Source(notification.bucket, notification.name, notification.generation)
        return Job(
            ids,
            source,
            route.definition,
            route.settings,
            result_id(ids, source, dict(route.raw), route.settings, forced_by=_forced(delivery)),
            callback_url=route.callback if isinstance(route.callback, str) else None,
            wants_callback=bool(route.callback),
            pipeline_name=_text(route.settings.get("pipeline_name")),
            trace_parent=trace_parent_of(delivery.attributes),
            replay_count=replays_of(delivery.attributes),
        )

    def _notification(self, delivery: Delivery) -> Notified | Ignored:
        try:
            notification = StorageNotification.model_validate(dict(delivery.attributes))
        except ValidationError as error:
            raise MalformedMessage(problems_of(error)) from error
        if notification.event_type != EventType.FINALIZE:
            return Ignored("other_event")
        if is_our_own(notification.name):
            return Ignored("own_folder")
        if self.routes.find(notification.bucket, notification.name) is None:
            return Ignored("no_route")
        return Notified(notification)

    def _request(self, raw: JsonObject, delivery: Delivery) -> Job:
        request = _read_request(raw)
        definition = raw["pipeline_definition"]
        ids = Ids(request.tenant_id, request.session_id, request.image_id)
        source = Source(*split_object_url(request.image_url))
        return Job(
            ids,
            source,
            request.pipeline_definition,
            request.settings,
            result_id(ids, source, definition, request.settings, forced_by=_forced(delivery)),
            callback_url=request.callback_url,
            pipeline_name=_text(request.settings.get("pipeline_name")),
            trace_parent=trace_parent_of(delivery.attributes),
            replay_count=replays_of(delivery.attributes),
            warnings=unread("", request.model_extra or (), ProcessingRequest),
        )

    def _named(self, raw: JsonObject, delivery: Delivery) -> Job:
        _check_nesting(raw)
        problems: list[Problem] = []
        preset, hint = self.presets.named(str(raw["pipeline"]))
        options = _options(raw)
        try:
            request = NamedPipelineRequest.model_validate(raw)
        except ValidationError as error:
            request = None
            problems += look_at_envelope(NamedPipelineRequest, raw).problems or problems_of(error)
        if preset is None and "pipeline" not in {problem.path for problem in problems}:
            problems.append(Problem("pipeline", f"no preset is named {raw['pipeline']!r}; {hint}"))
        problems += override_problems(options)
        if preset is None and request is not None:
            raise UnknownPreset(problems)
        if problems or request is None or preset is None:
            raise MalformedMessage(problems)
        definition, content = preset.definition, preset.raw
        if OVERRIDE in options:
            changed = with_confidence(content, options[OVERRIDE])
            if changed != content:
                del options[OVERRIDE]
            overridden, problems = read_definition(changed)
            if overridden is None:
                raise MalformedMessage(problems)
            definition, content = overridden, changed
        ids = Ids(request.tenant_id, request.session_id, request.image_id)
        source = Source(*split_object_url(request.image_url))
        return Job(
            ids,
            source,
            definition,
            preset.settings,
            result_id(ids, source, content, preset.settings, forced_by=_forced(delivery)),
            callback_url=request.callback_url,
            pipeline_name=request.pipeline,
            trace_parent=trace_parent_of(delivery.attributes),
            replay_count=replays_of(delivery.attributes),
            warnings=(
                *unread("", request.model_extra or (), NamedPipelineRequest),
                *unread("options.", options),
            ),
        )


class _Whose(Contract):
    """What must be right about a message for its sender to be told anything."""

    model_config = ConfigDict(extra="ignore")

    tenant_id: TenantId
    session_id: UUID
    image_id: UUID


_URL: TypeAdapter[str] = TypeAdapter(ObjectUrl)


@dataclass(frozen=True, slots=True)
class Known:
    """What can still be read of a message that could not be decoded: enough to tell the backend."""

    ids: Ids
    source: Source | None
    callback_url: str | None


def known_of(data: bytes) -> Known | None:
    """Return whose photo an undecodable message is about, if at least that can be read."""
    try:
        raw = _json(data)
        whose = _Whose.model_validate(raw)
    except (MalformedMessage, ValidationError):
        return None
    try:
        source = Source(*split_object_url(_URL.validate_python(raw.get("image_url"))))
    except ValidationError:
        source = None
    callback_url = _text(raw.get("callback_url"))
    told = callback_url if callback_url and len(callback_url) <= MAX_URL else None
    return Known(Ids(whose.tenant_id, whose.session_id, whose.image_id), source, told)


def _read_request(raw: JsonObject) -> ProcessingRequest:
    """Return the request. What is right is read in one pass; only what is wrong is looked at again."""
    _check_nesting(raw)
    if not limit_problems(raw.get("pipeline_definition")) and not size_problems(
        raw.get("settings"), "settings", MAX_SETTINGS_BYTES
    ):
        try:
            return ProcessingRequest.model_validate(raw)
        except ValidationError as error:
            raise MalformedMessage([*look_at_request(raw).problems] or problems_of(error)) from error
    raise MalformedMessage([*look_at_request(raw).problems])


def _options(raw: JsonObject) -> dict[str, JsonValue]:
    """Return the options that say something: null means unset."""
    options = raw.get("options")
    if not isinstance(options, dict):
        return {}
    return {name: value for name, value in options.items() if value is not None}


def _check_nesting(raw: JsonObject) -> None:
    """Refuse what can be read, but is too deep to be named in a problem or hashed into an identity."""
    if problems := nesting_problems(raw):
        raise MalformedMessage(problems)


def _json(data: bytes) -> JsonObject:
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedMessage([Problem("(message)", f"not JSON: {error}")]) from error
    if not isinstance(raw, dict):
        raise MalformedMessage([Problem("(message)", f"expected a JSON object, got {type(raw).__name__}")])
    return raw


def ids_of_photo(tenant: str, where: str, generation: int, metadata: Mapping[str, str]) -> Ids:
    """Return the ids of a photo that no message names: those of its metadata, else made from its place.

    Args:
        tenant: whose it is.
        where: `bucket/name`.
        generation: of the object: a photo that replaces another has other ids.
        metadata: of the object.
    """
    seed = f"gs://{where}#{generation}"
    return Ids(
        tenant,
        _uuid(metadata.get("session_id"), f"{seed}/session"),
        _uuid(metadata.get("image_id"), f"{seed}/image"),
    )


def _uuid(value: str | None, seed: str) -> UUID:
    try:
        return UUID(value) if value else uuid5(NAMESPACE_URL, seed)
    except ValueError:
        return uuid5(NAMESPACE_URL, seed)


def _forced(delivery: Delivery) -> str | None:
    return delivery.message_id if delivery.attributes.get(FORCE, "") in ("1", "true") else None


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None
