"""The tenant's own folder of the bucket, as steps see it."""

from __future__ import annotations

from dataclasses import dataclass, field

from consumer.decode import OUTPUT_MARK
from consumer.patience import Patience
from consumer.sources import check_name
from consumer.storage import ObjectStore
from contracts.request import check_tenant_id
from pipeline_steps.context import Deadline
from pipeline_steps.errors import DeadlineExceeded, NotAllowed

RESERVED = frozenset({"results", "models", "dead-letters"})
"""Folders that steps may not write into."""


@dataclass
class TenantFolder:
    """Writes below `{tenant}/`, for as long as the run lasts."""

    store: ObjectStore
    patience: Patience
    bucket: str
    tenant_id: str
    deadline: Deadline
    is_open: bool = field(default=True)

    def __post_init__(self) -> None:
        # It was checked when the message was read; here it becomes the folder that everything hangs on.
        try:
            check_tenant_id(self.tenant_id)
        except ValueError as error:
            raise NotAllowed(f"tenant {self.tenant_id!r}: {error}") from error

    def url(self, name: str) -> str:
        """Return the `gs://` url of `name` in the tenant's folder."""
        return f"gs://{self.bucket}/{self._path(name)}"

    async def write(self, name: str, data: bytes, *, content_type: str) -> str:
        """Write an object, marked as ours so that its notification starts no new run."""
        path = self._path(name)

        async def once() -> None:
            if not self.is_open:
                raise DeadlineExceeded(f"the run that wanted to write {name!r} has ended")
            self.deadline.check()
            await self.store.write(
                self.bucket,
                path,
                data,
                content_type=content_type,
                metadata={OUTPUT_MARK: f"{self.bucket}/{path}"},
            )

        await self.patience.persist(f"bucket {self.bucket}", once)
        return f"gs://{self.bucket}/{path}"

    def close(self) -> None:
        """Refuse every later write: a thread that outlived its run may not touch the next one's files."""
        self.is_open = False

    def _path(self, name: str) -> str:
        check_name(name)
        # Also where a file system does not tell `Results` from `results`.
        if name.split("/")[0].lower() in RESERVED:
            raise NotAllowed(f"{name!r}: the folders {', '.join(sorted(RESERVED))} are the worker's own")
        return f"{self.tenant_id}/{name}"
