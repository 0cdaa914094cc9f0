"""Which objects of a bucket are photos, whose they are, and the request that each becomes."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final
from uuid import UUID

import orjson

from consumer.decode import OUTPUT_MARK, ids_of_photo
from consumer.jobs import Ids
from consumer.routes import is_our_own
from consumer.sources import check_name
from consumer.storage import ObjectInfo
from contracts.base import JsonObject
from contracts.request import check_tenant_id
from pipeline_steps.errors import NotAllowed

_ENDINGS: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif"})


class Skipped(StrEnum):
    """Why an object becomes no request."""

    OWN_FOLDER = "own_folder"
    """It lies where only the worker writes, or is a folder's placeholder."""
    OWN_OUTPUT = "own_output"
    """The worker wrote it."""
    NO_MATCH = "no_match"
    """Its name does not match `--match`."""
    NO_PHOTO = "no_photo"
    """Neither its content type nor its ending is a picture's."""
    EMPTY = "empty"
    BAD_NAME = "bad_name"
    """The worker would refuse its path."""
    NO_TENANT = "no_tenant"
    """Its first folder cannot be a tenant's id, and no tenant was named."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo, and the ids it gets: the same every time, until it is replaced."""

    info: ObjectInfo
    ids: Ids


@dataclass(frozen=True, slots=True)
class Rules:
    """What a person said of the photos."""

    tenant: str | None = None
    """None: the first folder of each name."""
    session: UUID | None = None
    """None: each photo its own, as its notification would have given it."""
    match: re.Pattern[str] | None = None
    """What a whole name must match."""

    def photo_of(self, info: ObjectInfo) -> Photo | Skipped:
        """Return the photo that an object is, or why it is none."""
        if is_our_own(info.name):
            return Skipped.OWN_FOLDER
        if info.metadata.get(OUTPUT_MARK) == f"{info.bucket}/{info.name}":
            return Skipped.OWN_OUTPUT
        if self.match is not None and not self.match.fullmatch(info.name):
            return Skipped.NO_MATCH
        ending = PurePosixPath(info.name).suffix.lower()
        if not info.content_type.startswith("image/") and ending not in _ENDINGS:
            return Skipped.NO_PHOTO
        if info.size == 0:
            return Skipped.EMPTY
        try:
            check_name(info.name)
        except NotAllowed:
            return Skipped.BAD_NAME
        tenant = self.tenant or info.name.partition("/")[0]
        try:
            check_tenant_id(tenant)
        except ValueError:
            return Skipped.NO_TENANT
        ids = ids_of_photo(tenant, f"{info.bucket}/{info.name}", info.generation, info.metadata)
        return Photo(info, replace(ids, session_id=self.session) if self.session else ids)


@dataclass(frozen=True, slots=True)
class Request:
    """What every photo is asked for."""

    definition: JsonObject
    """The pipeline as its file has it: its identity is taken from this form."""
    settings: JsonObject
    callback_url: str | None = None

    def body(self, photo: Photo) -> bytes:
        """Return the message of a photo."""
        return orjson.dumps(
            {
                "tenant_id": photo.ids.tenant_id,
                "session_id": str(photo.ids.session_id),
                "image_id": str(photo.ids.image_id),
                "image_url": photo.info.url,
                "pipeline_definition": self.definition,
                "settings": self.settings,
                "callback_url": self.callback_url,
            }
        )


def identity_of(bucket: str, prefix: str, rules: Rules, request: Request, topic: str, *, force: bool) -> str:
    """Return what tells this backfill from others: sha256 of all it was told."""
    match = rules.match.pattern if rules.match else None
    session = str(rules.session) if rules.session else None
    parts = [
        bucket,
        prefix,
        rules.tenant,
        session,
        match,
        request.definition,
        dict(request.settings),
        request.callback_url,
        topic,
        force,
    ]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()
