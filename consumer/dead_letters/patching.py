"""Mending a body on its way back: JSON merge patch, RFC 7396."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import orjson
from pydantic import JsonValue

from consumer.dead_letters.envelope import Original
from contracts.base import JsonObject


class InvalidPatch(ValueError):
    """The file holds no patch."""


class NotPatchable(Exception):
    """This message cannot be patched; the message says why."""


@dataclass(frozen=True, slots=True)
class Patch:
    """What to change in every body."""

    changes: JsonObject

    @property
    def digest(self) -> str:
        """Sha256 of the patch, whatever the order of its keys."""
        return hashlib.sha256(orjson.dumps(self.changes, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def applied_to(self, original: Original) -> bytes:
        """Return the body, changed.

        Raises:
            NotPatchable: it is no JSON object, or nobody would read the change.
        """
        if original.is_notification:
            raise NotPatchable(
                "a bucket's notification is read from its attributes: no patch of its body counts"
            )
        try:
            body = orjson.loads(original.data)
        except orjson.JSONDecodeError as error:
            raise NotPatchable(f"the body is not JSON, so it cannot be patched: {error}") from error
        if not isinstance(body, dict):
            raise NotPatchable(f"the body is a JSON {type(body).__name__}, no object: it cannot be patched")
        try:
            return orjson.dumps(merged(body, self.changes))
        except orjson.JSONEncodeError as error:
            raise NotPatchable(f"the body cannot be written again: {str(error).lower()}") from error


def read_patch(data: bytes) -> Patch:
    """Return the patch of a file's bytes.

    Raises:
        InvalidPatch: it is no JSON object.
    """
    try:
        changes = orjson.loads(data)
        orjson.dumps(changes)
    except orjson.JSONDecodeError as error:
        raise InvalidPatch(f"not JSON: {error}") from error
    except orjson.JSONEncodeError as error:
        raise InvalidPatch(f"nested too deep: {str(error).lower()}") from error
    if not isinstance(changes, dict):
        raise InvalidPatch(
            f"expected a JSON object, got {type(changes).__name__}: it would replace every body as a whole"
        )
    return Patch(changes)


def merged(target: JsonValue, patch: JsonValue) -> JsonValue:
    """Return the target after the patch: `null` removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    kept = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = merged(kept.get(name), value)
    return kept
