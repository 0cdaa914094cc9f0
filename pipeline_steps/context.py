"""What a step is given beside its inputs and parameters."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from pipeline_steps.artifact import Ids
from pipeline_steps.errors import DeadlineExceeded
from pipeline_steps.models import Models

MAX_MAP_DEPTH = 2
MAX_MAP_ITEMS = 10_000
_ROW_BITS, _ITEM_BITS = 26, 14


@dataclass(frozen=True, slots=True)
class JobInfo:
    """Whose photo it is."""

    tenant_id: str
    session_id: str
    image_id: str
    source_url: str | None = None
    """`gs://` url of the photo."""


class TenantStore(Protocol):
    """The tenant's own folder of the bucket. Refuses every other path, and writes after the run's end."""

    def url(self, name: str) -> str:
        """Return the `gs://` url of `name`, a path below the tenant's folder.

        Raises:
            NotAllowed: the path would leave the folder, or is reserved for the worker.
        """
        ...

    async def write(self, name: str, data: bytes, *, content_type: str) -> str:
        """Write an object marked as the worker's own output, and return its url.

        Raises:
            NotAllowed: as `url`.
            StoreUnavailable: the store did not take it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock."""

    at: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> Deadline:
        """Return the moment `seconds` from now."""
        return cls(clock() + seconds, clock)

    @property
    def remaining(self) -> float:
        """Seconds left; negative when it has passed."""
        return self.at - self.clock()

    def sooner(self, seconds: float | None) -> Deadline:
        """Return the earlier of this and `seconds` from now."""
        if seconds is None:
            return self
        return replace(self, at=min(self.at, self.clock() + seconds))

    def check(self) -> None:
        """Raise `DeadlineExceeded` if it has passed. To be called between tiles, batches and uploads."""
        if self.remaining <= 0:
            raise DeadlineExceeded("the time for this step, or for the whole pipeline, is over")


@dataclass(frozen=True, slots=True)
class StepContext:
    """The job, the services a step may use, and where in the pipeline it stands."""

    job: JobInfo
    models: Models
    store: TenantStore
    deadline: Deadline
    path: str = "steps.0"
    node: int = 0
    """The step's number in the parsed pipeline, 0 to 511."""
    items: tuple[int, ...] = field(default=())
    """Inside maps: the item's number in each, outermost first."""

    def ids(self, n: int) -> Ids:
        """Return `n` identities for things this step writes: the same on every run, unique in the job.

        Row, items and node have their own bits of a 63-bit number, so no two can meet: 9 for the node,
        14 for each of two nested maps, 26 for the row. 0 stays free and means nothing.
        """
        item = 0
        for depth in range(MAX_MAP_DEPTH):
            item = (item << _ITEM_BITS) | (self.items[depth] + 1 if depth < len(self.items) else 0)
        base = (self.node << (MAX_MAP_DEPTH * _ITEM_BITS)) | item
        return (base << _ROW_BITS) + 1 + np.arange(n, dtype=np.int64)
