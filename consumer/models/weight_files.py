"""The files of models' weights: fetched once, and checked before every load.

Nothing here needs torch: files are fetched and checked while it is imported.

A file counts only under its final name, which it gets after its sha256 was checked; so a download that was
cut off leaves nothing that could be mistaken for a model.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias

from consumer.models.manifest import Manifest, ModelEntry
from consumer.storage import ObjectStore
from pipeline_steps.errors import ModelUnavailable, StepError, StoreUnavailable

_AT_ONCE = 8 << 20
"""Bytes hashed in one go; after each the thread waits for its turn at the interpreter."""

_DOWNLOADS = 3
"""Times a download that breaks off is begun."""

_State: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A file whose sha256 was the manifest's."""

    path: Path
    state: _State
    """What it was when it was checked: file, size, times of writing and of any change."""

    @classmethod
    def check(cls, model: ModelEntry, file: Path) -> CheckedFile:
        """Read the whole file and compare; blocking.

        Raises:
            ModelUnavailable: it is missing, or another file than the manifest's.
        """
        before = _state_of(file, model)
        found = _sha256(file, model)
        if found != model.sha256:
            raise ModelUnavailable(
                f"model {model.name!r}: {file} has sha256 {found}, expected {model.sha256}"
            )
        return cls(file, before)

    def require_unchanged(self, model: ModelEntry) -> None:
        """Return if nobody has touched the file since before it was checked.

        Raises:
            ModelUnavailable: somebody has: what was read may be anything.
        """
        if _state_of(self.path, model) != self.state:
            raise ModelUnavailable(f"model {model.name!r}: {self.path} was changed while it was read")


class WeightCache:
    """Finds a model's weights: beside the manifest, or in a bucket, of which it keeps copies by their sha256.

    Args:
        folder: where copies are kept; it may be shared by several workers.
        store: where `gs://` weights are read; None where there are none.
    """

    def __init__(self, folder: Path, store: ObjectStore | None = None) -> None:
        self._folder = folder
        self._store = store
        self._under_way: dict[tuple[str, str], asyncio.Task[CheckedFile]] = {}

    def begin(self, manifest: Manifest, model: ModelEntry) -> None:
        """Fetch and check weights that will soon be asked for; the next `fetch` has what becomes of it."""
        self._task(manifest, model)

    async def fetch(self, manifest: Manifest, model: ModelEntry) -> CheckedFile:
        """Return a local file with the model's weights, checked since it was asked for, or begun.

        Raises:
            ModelUnavailable: they do not exist, cannot be read, or are not what the manifest says.
        """
        task = self._task(manifest, model)
        try:
            # Shielded: one caller's end is no reason to start again for the others.
            return await asyncio.shield(task)
        finally:
            if task.done():
                self._under_way = {key: other for key, other in self._under_way.items() if other is not task}

    def _task(self, manifest: Manifest, model: ModelEntry) -> asyncio.Task[CheckedFile]:
        key = (manifest.location(model), model.sha256)
        if key not in self._under_way:
            self._under_way[key] = asyncio.create_task(self._checked(key[0], model))
            self._under_way[key].add_done_callback(_heard)
        return self._under_way[key]

    async def _checked(self, location: str, model: ModelEntry) -> CheckedFile:
        if "://" not in location:
            return await asyncio.to_thread(CheckedFile.check, model, Path(location))
        file = self._folder / f"{model.sha256}{Path(location).suffix}"
        try:
            return await asyncio.to_thread(CheckedFile.check, model, file)
        except ModelUnavailable:  # not there yet, or cut off
            await self._keep(location, file, model)
        return await asyncio.to_thread(CheckedFile.check, model, file)

    async def _keep(self, url: str, file: Path, model: ModelEntry) -> None:
        """Copy weights from a bucket to `file`, under a name of their own until they are whole and right."""
        try:
            with _unfinished(file) as copy:
                found = await self._download(url, copy, model)
                if found != model.sha256:
                    wrong = f"{url} has sha256 {found}, expected {model.sha256}"
                    raise ModelUnavailable(f"model {model.name!r}: {wrong}")
                await asyncio.to_thread(_finish, copy, file)
        except OSError as error:  # a disk that is full, or may not be written to
            raise ModelUnavailable(
                f"model {model.name!r}: no copy of {url} can be kept in {file.parent}: {error.strerror}"
            ) from error

    async def _download(self, url: str, copy: IO[bytes], model: ModelEntry) -> str:
        """Write the object to `copy`, never holding more than a few pieces of it, and return its sha256."""
        if self._store is None:
            raise ModelUnavailable(f"model {model.name!r}: there is no object store to read {url} from")
        bucket, _, name = url.removeprefix("gs://").partition("/")
        broken = 0
        while True:
            digest = hashlib.sha256()
            try:
                async with aclosing(self._store.stream(bucket, name)) as pieces:
                    async for piece in pieces:
                        await asyncio.to_thread(_take, piece, copy, digest)
                return digest.hexdigest()
            except StepError as error:
                broken += 1
                if broken == _DOWNLOADS or not isinstance(error, StoreUnavailable):
                    raise ModelUnavailable(f"model {model.name!r}: cannot read {url}: {error}") from error
            copy.seek(0)
            copy.truncate()


def _heard(task: asyncio.Task[CheckedFile]) -> None:
    """A failure that nobody waits for any more, as the start has failed already, is no news."""
    if not task.cancelled():
        task.exception()


def _state_of(file: Path, model: ModelEntry) -> _State:
    try:
        status = file.stat()
    except OSError as error:
        raise ModelUnavailable(f"model {model.name!r}: {file} cannot be read: {error.strerror}") from error
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _sha256(file: Path, model: ModelEntry) -> str:
    digest, piece = hashlib.sha256(), memoryview(bytearray(_AT_ONCE))
    try:
        with file.open("rb", buffering=0) as stream:
            while length := stream.readinto(piece):
                digest.update(piece[:length])
    except OSError as error:
        raise ModelUnavailable(f"model {model.name!r}: {file} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


@contextmanager
def _unfinished(file: Path) -> Iterator[IO[bytes]]:
    """Give an empty file beside `file`, which is gone afterwards unless it was given its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        prefix=f"{file.name}.", suffix=".part", dir=file.parent, delete=False
    ) as copy:
        try:
            yield copy
        finally:
            Path(copy.name).unlink(missing_ok=True)


def _take(piece: bytes, copy: IO[bytes], digest: hashlib._Hash) -> None:
    copy.write(piece)
    digest.update(piece)


def _finish(copy: IO[bytes], file: Path) -> None:
    copy.flush()
    os.fsync(copy.fileno())
    Path(copy.name).replace(file)
