"""Which objects a tenant may have read: the rules are checked before any I/O."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from consumer.jobs import Ids, Source
from pipeline_steps.errors import NotAllowed


@dataclass(frozen=True, slots=True)
class SourceRules:
    """The operator's word on where photos lie."""

    buckets: frozenset[str]
    prefixes: Sequence[str]
    """Templates over {tenant_id}, {session_id} and {image_id}, each ending in `/`."""

    def check(self, ids: Ids, source: Source) -> None:
        """Return if the tenant may have the object read.

        Raises:
            NotAllowed: naming the bucket or path, and what is allowed.
        """
        if source.bucket not in self.buckets:
            raise NotAllowed(
                f"bucket mismatch: {source.bucket!r} is not one of {sorted(self.buckets)} (ALLOWED_BUCKETS)"
            )
        check_name(source.name)
        allowed = [self._folder(prefix, ids) for prefix in self.prefixes]
        if not any(source.name.startswith(folder) for folder in allowed):
            raise NotAllowed(
                f"path {source.name!r} does not belong to tenant {ids.tenant_id!r}: it must start with "
                f"{' or '.join(allowed)} (IMAGE_PREFIXES)"
            )

    @staticmethod
    def _folder(prefix: str, ids: Ids) -> str:
        folder = prefix.format(tenant_id=ids.tenant_id, session_id=ids.session_id, image_id=ids.image_id)
        return folder if folder.endswith("/") else f"{folder}/"


def check_name(name: str) -> None:
    """Return if an object's name is one plain path.

    Raises:
        NotAllowed: an empty, `.` or `..` segment, or a control character.
    """
    if any(segment in ("", ".", "..") for segment in name.split("/")):
        raise NotAllowed(f"path {name!r} has an empty, '.' or '..' segment")
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise NotAllowed(f"path {name!r} has a control character")
