"""Which objects a tenant may have read: the rules are checked before any I/O."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
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
        self.check_object(source.bucket, source.name)
        allowed = list(self._folders(ids))
        if not any(source.name.startswith(folder) for folder in allowed):
            raise NotAllowed(
                f"path {source.name!r} does not belong to tenant {ids.tenant_id!r}: it must start with "
                f"{' or '.join(allowed)} (IMAGE_PREFIXES)"
            )

    def check_object(self, bucket: str, name: str) -> None:
        """Return if anybody may have the object looked at: what can be told before it is known whose it is.

        Raises:
            NotAllowed: naming the bucket or path, and what is allowed.
        """
        if bucket not in self.buckets:
            raise NotAllowed(
                f"bucket mismatch: {bucket!r} is not one of {sorted(self.buckets)} (ALLOWED_BUCKETS)"
            )
        check_name(name)

    def _folders(self, ids: Ids) -> Iterator[str]:
        """Yield the folders the message's photos may lie in.

        With `{tenant_id}/` and `shop/{session_id}/`, a tenant called `shop` would own the folder of every
        session: a template that gets another one's first folder by what is filled in does not hold.
        """
        taken = {first for prefix in self.prefixes if "{" not in (first := prefix.split("/")[0])}
        for prefix in self.prefixes:
            folder = self._filled(prefix, ids)
            if "{" not in prefix.split("/")[0] or folder.split("/")[0] not in taken:
                yield folder

    @staticmethod
    def _filled(prefix: str, ids: Ids) -> str:
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
