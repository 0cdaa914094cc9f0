"""What the backend publishes: one photo to process."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic.config import JsonDict

from contracts.base import Contract
from contracts.pipeline import PipelineDefinition

MAX_URL = 2048
"""Characters of a url, be it of the photo or of the callback."""
RESERVED_TENANTS = frozenset({"models", "results", "processed", "originals", "dead-letters"})
"""Names that are folders of ours, or would be read as one."""

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_OBJECT_URL = re.compile(r"gs://(?P<bucket>[^/]+)/(?P<name>.+)", re.DOTALL)


def check_tenant_id(value: str) -> str:
    """Return `value` if it may name a tenant, else raise a `ValueError` that says what may."""
    if not _TENANT.fullmatch(value):
        raise ValueError(
            "a tenant id is 1 to 64 letters, digits, '.', '_' or '-', and starts with a letter or digit"
        )
    if value.lower() in RESERVED_TENANTS:
        raise ValueError(f"{value!r} is the name of a folder of the worker's and cannot be a tenant")
    return value


def split_object_url(url: str) -> tuple[str, str]:
    """Return bucket and object name of `gs://bucket/name`, else raise a `ValueError`."""
    match = _OBJECT_URL.fullmatch(url)
    if match is None:
        raise ValueError("expected gs://bucket/path/of/the/object")
    if not _BUCKET.fullmatch(match["bucket"]):
        raise ValueError(
            f"{match['bucket'][:80]!r} cannot be a bucket's name: expected 3 to 222 lower-case letters, "
            "digits, '.', '_' or '-', the first and the last a letter or digit"
        )
    return match["bucket"], match["name"]


def _check_object_url(url: str) -> str:
    split_object_url(url)
    return url


def _in_schema(pattern: str, *, but: Iterable[str] = ()) -> Any:
    """Show a pattern in the JSON Schema; the validator beside it says in words what it wants.

    Args:
        pattern: what the whole text must match.
        but: words that it must not be, in upper or lower case.
    """
    words = "|".join(
        re.sub("[a-z]", lambda found: f"[{found[0]}{found[0].upper()}]", word) for word in sorted(but)
    )
    extra: JsonDict = {"pattern": f"^{pattern}$"}
    return Field(json_schema_extra=extra | ({"not": {"pattern": f"^({words})$"}} if words else {}))


def _unset_is_empty(value: object) -> object:
    return {} if value is None else value


Settings = Annotated[
    dict[str, JsonValue],
    BeforeValidator(_unset_is_empty, json_schema_input_type=dict[str, JsonValue] | None),
]
TenantId = Annotated[str, AfterValidator(check_tenant_id), _in_schema(_TENANT.pattern, but=RESERVED_TENANTS)]
Id = Annotated[UUID, _in_schema(_UUID.pattern)]
ObjectUrl = Annotated[
    str,
    Field(max_length=MAX_URL),
    AfterValidator(_check_object_url),
    _in_schema(rf"gs://{_BUCKET.pattern}/[\s\S]+"),
]


class ProcessingRequest(Contract):
    """One photo, and the pipeline to run on it.

    Unknown top-level keys are kept in `model_extra`, reported and otherwise ignored: the backend may be
    newer than the worker.
    """

    model_config = ConfigDict(extra="allow")

    tenant_id: TenantId
    session_id: Id
    image_id: Id
    image_url: ObjectUrl
    pipeline_definition: PipelineDefinition
    settings: Settings = Field(default_factory=dict)
    """Defaults for the parameters of steps that declare to read them; `null` means unset."""
    callback_url: str | None = Field(default=None, max_length=MAX_URL)


class NamedPipelineRequest(Contract):
    """The backend's older message: the pipeline is a preset's name."""

    model_config = ConfigDict(extra="allow")

    tenant_id: TenantId
    session_id: Id
    image_id: Id
    image_url: ObjectUrl
    pipeline: str = Field(min_length=1, max_length=64)
    options: dict[str, JsonValue] | None = None
    callback_url: str | None = Field(default=None, max_length=MAX_URL)
