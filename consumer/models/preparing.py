"""What is made ready for a device, on the host: pictures are resized there, on a few threads."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from consumer.fair_threads import FairThreads
from consumer.models.runner import AnyRunner, Embeds

_THREADS = 3
"""Two are enough to keep a device fed and to leave cores for decoding; one is for a tenant that has none."""


class Ready(NamedTuple):
    """Items as they can be put into a batch."""

    items: list[Any]
    digests: list[bytes]
    """One for each picture that is to be embedded, if they are wanted; else none."""


class Preparers:
    """The threads.

    Args:
        with_digests: whether embeddings are kept by them.
    """

    def __init__(self, *, with_digests: bool) -> None:
        self._threads = FairThreads(_THREADS, "prepare")
        self._with_digests = with_digests

    async def prepare(self, runner: AnyRunner, items: Sequence[Any], tenant: Hashable) -> Ready:
        """Make items ready for a model; those that are costly on a thread.

        Raises:
            InvalidInput: the model cannot be shown one of them.
        """
        digest = runner.digest if self._with_digests and isinstance(runner, Embeds) else None

        def prepare() -> Ready:
            ready = [runner.prepare(item) for item in items]
            digests = map(digest, ready) if digest else ()
            return Ready(ready, [one for one in digests if one is not None])

        if any(runner.costly(item) for item in items):
            return await asyncio.get_running_loop().run_in_executor(self._threads.of(tenant), prepare)
        return prepare()

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False)
