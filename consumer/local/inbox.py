"""A folder that is watched: what is dropped into it is uploaded to the bucket under the same name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import structlog

from pipeline_steps.errors import StepError

log = structlog.get_logger()

Stamp: TypeAlias = tuple[int, int]
"""Modification time in nanoseconds, and size: both change while a file is being copied."""

POLL = 0.5
_DEPTH = 3
"""`{tenant}/{folder}/{file}` at least: what lies higher up belongs to no tenant."""


class Inbox:
    """Uploads each file once it has stopped changing, and again whenever it is replaced.

    Args:
        folder: watched with all below it; hidden and empty files are left alone.
        upload: given the file's path below the folder, with slashes, and its bytes.
    """

    def __init__(self, folder: Path, upload: Callable[[str, bytes], Awaitable[object]]) -> None:
        self._folder = folder
        self._upload = upload
        self._seen: dict[Path, Stamp] = {}
        self._uploaded: dict[Path, Stamp] = {}

    async def watch(self) -> None:
        """Watch until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(POLL)

    async def look(self) -> None:
        """Upload what is as it was at the last look, and was not uploaded like that."""
        now = await asyncio.to_thread(self._stamps)
        for path, stamp in now.items():
            if self._seen.get(path) == stamp != self._uploaded.get(path):
                await self._take(path, stamp)
        self._seen = now

    async def _take(self, path: Path, stamp: Stamp) -> None:
        self._uploaded[path] = stamp
        name = path.relative_to(self._folder).as_posix()
        try:
            data = await asyncio.to_thread(path.read_bytes)
            await self._upload(name, data)
        except (OSError, StepError) as error:
            log.warning("not_uploaded", file=name, error=str(error))
        else:
            log.info("uploaded", file=name, size=len(data))

    def _stamps(self) -> dict[Path, Stamp]:
        stamps = {}
        for path in sorted(self._folder.rglob("*")):
            parts = path.relative_to(self._folder).parts
            if len(parts) < _DEPTH or any(part.startswith(".") for part in parts):
                continue
            try:
                state = path.stat()
            except OSError:  # gone since it was listed
                continue
            if path.is_file() and state.st_size:
                stamps[path] = (state.st_mtime_ns, state.st_size)
        return stamps
