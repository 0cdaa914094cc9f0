"""The object store as a folder: for local mode, for tests, for looking at what the worker wrote.

A bucket is a folder under the root, an object a file in it, found where its name says
(`consumer/storage/object_names.py`). Whoever drops a file there has uploaded an object.

- **An object's generation is its file's modification time in nanoseconds.** A file dropped by hand needs no
  book-keeping, and content and generation change in one rename. Writes take a time later than every write
  to the bucket before them, kept in `.meta/{bucket}/lock`, also when the clock steps back.
- What a file cannot hold (content type, metadata, CRC-32C) lies in `.meta/{bucket}/`, one small file per
  generation, written before the object appears. A file whose modification time has none was dropped or
  edited by hand: its type is guessed from its name, its checksum unknown until it is read.
- One `flock` per bucket, held for the few renames of a write or the two opens of a read, makes
  preconditions hold among threads and processes. Bytes are copied outside it.

It survives its process; it does not survive the machine (nothing is synced to disk).
"""

from __future__ import annotations

import fcntl
import mimetypes
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from consumer.storage import STREAM_BYTES, ObjectInfo, OnFound, PreconditionFailed, StoredObject
from consumer.storage.checksum import crc32c
from consumer.storage.file_generations import last_generation, stamp
from consumer.storage.object_names import beside_folder, check_bucket_name, name_of, path_of
from consumer.storage.sidecars import Sidecar, read_sidecar, sidecar_path
from consumer.storage.streaming import in_threads, verified
from consumer.storage.threads import CallThreads
from pipeline_steps.errors import (
    NotAllowed,
    ObjectMissing,
    StoreMisconfigured,
    StoreUnavailable,
)

_META = ".meta"  # no bucket's name starts with a dot
_LIST_CHUNK = 200
_THREADS = 8


class FilesystemStore:
    """An `ObjectStore` under the folder `root`; blocking I/O runs in threads of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._threads = CallThreads(_THREADS, "filesystem-store")

    async def stat(self, bucket: str, name: str, *, generation: int | None = None) -> ObjectInfo:
        """See `ObjectStore.stat`; the checksum of a file dropped by hand is empty."""
        return await self._threads.run(self._stat, bucket, name, generation)

    async def read(
        self, bucket: str, name: str, *, generation: int | None = None, on_found: OnFound = lambda _: None
    ) -> StoredObject:
        """See `ObjectStore.read`."""
        return await self._threads.run(self._read, bucket, name, generation, on_found)

    def stream(self, bucket: str, name: str, *, generation: int | None = None) -> AsyncGenerator[bytes, None]:
        """See `ObjectStore.stream`."""
        return in_threads(self._threads, self._pieces(bucket, name, generation))

    async def write(
        self,
        bucket: str,
        name: str,
        data: bytes,
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
        if_generation_match: int | None = None,
    ) -> ObjectInfo:
        """See `ObjectStore.write`; a bucket that is not there is made."""
        sidecar = Sidecar(
            name=name, content_type=content_type, metadata=dict(metadata or {}), crc32c=crc32c(data)
        )
        return await self._threads.run(self._write, bucket, sidecar, data, if_generation_match)

    async def delete(self, bucket: str, name: str, *, if_generation_match: int | None = None) -> None:
        """See `ObjectStore.delete`; the folders stay."""
        await self._threads.run(self._delete, bucket, name, if_generation_match)

    async def list(self, bucket: str, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """See `ObjectStore.list`; objects deleted meanwhile are left out."""
        names = [name for name in await self._threads.run(self._names, bucket, prefix) if name > after]
        for start in range(0, len(names), _LIST_CHUNK):
            for info in await self._threads.run(self._present, bucket, names[start : start + _LIST_CHUNK]):
                yield info

    async def close(self) -> None:
        """End the threads, after the calls under way."""
        await self._threads.close()

    # ------------------------------------------------------------------ in a thread, from here on

    def _stat(self, bucket: str, name: str, generation: int | None) -> ObjectInfo:
        with self._opened(bucket, name, generation) as (_, info):
            return info

    def _read(self, bucket: str, name: str, generation: int | None, on_found: OnFound) -> StoredObject:
        with self._opened(bucket, name, generation) as (file, info):
            on_found(info)
            with open(file, "rb", closefd=False) as reader:
                data = reader.read(info.size + 1)
            _check_untouched(file, info)
        checksum = crc32c(data)
        if info.crc32c not in {"", checksum}:
            raise StoreUnavailable(f"{info.url} has CRC-32C {checksum}, {info.crc32c} was written")
        return StoredObject(_info(bucket, name, info.generation, info.size, checksum, info), data)

    def _pieces(self, bucket: str, name: str, generation: int | None) -> Generator[bytes, None, None]:
        with self._opened(bucket, name, generation) as (file, info):
            yield from verified(info, _chunks(file))
            _check_untouched(file, info)

    def _write(self, bucket: str, sidecar: Sidecar, data: bytes, expected: int | None) -> ObjectInfo:
        name, path = sidecar.name, path_of(sidecar.name)
        with _errors(f"writing gs://{bucket}/{name}"):
            self._folder(bucket).mkdir(parents=True, exist_ok=True)
            with self._temporary(bucket, data) as temporary, self._locked(bucket, fcntl.LOCK_EX) as lock:
                present = self._find(bucket, path)
                current = present.stat().st_mtime_ns if present else 0
                _check_generation(bucket, name, current, expected)
                generation = stamp(temporary, later_than=max(current, last_generation(lock)))
                os.pwrite(lock, b"%020d" % generation, 0)
                with self._temporary(bucket, sidecar.model_dump_json().encode()) as described:
                    destination = self._sidecar(bucket, name, generation)
                    destination.parent.mkdir(exist_ok=True)
                    described.replace(destination)
                temporary.replace(present or self._place(bucket, path))
                self._sidecar(bucket, name, current).unlink(missing_ok=True)
        return _info(bucket, name, generation, len(data), sidecar.crc32c, sidecar)

    def _delete(self, bucket: str, name: str, expected: int | None) -> None:
        path = path_of(name)
        with _errors(f"deleting gs://{bucket}/{name}"), self._locked(bucket, fcntl.LOCK_EX):
            while present := self._find(bucket, path):
                current = present.stat().st_mtime_ns
                _check_generation(bucket, name, current, expected)
                present.unlink()
                self._sidecar(bucket, name, current).unlink(missing_ok=True)

    def _names(self, bucket: str, prefix: str) -> Sequence[str]:
        folder = self._folder(bucket)
        with _errors(f"listing gs://{bucket}/{prefix}"):
            self._require(bucket)
            within = prefix.rpartition("/")[0]
            top = folder.joinpath(*path_of(within)) if within else folder
            names: set[str] = set()
            for here, _, files in os.walk(top, onerror=_unless_missing):
                parts = Path(here).relative_to(folder).parts
                found = (name_of((*parts, file)) for file in files)
                names.update(name for name in found if name is not None and name.startswith(prefix))
        return sorted(names)

    def _present(self, bucket: str, names: Sequence[str]) -> Sequence[ObjectInfo]:
        found = []
        for name in names:
            try:
                found.append(self._stat(bucket, name, None))
            except (ObjectMissing, NotAllowed):
                continue
        return found

    @contextmanager
    def _opened(self, bucket: str, name: str, generation: int | None) -> Iterator[tuple[int, ObjectInfo]]:
        """Give the object's open file, which stays this generation's, and what is known of it."""
        path = path_of(name)
        with _errors(f"reading gs://{bucket}/{name}"):
            with self._locked(bucket, fcntl.LOCK_SH):
                present = self._find(bucket, path)
                if present is None:
                    raise ObjectMissing(f"gs://{bucket}/{name} does not exist")
                file = os.open(present, os.O_RDONLY)
                try:
                    known = os.fstat(file)
                    sidecar = read_sidecar(self._sidecar(bucket, name, known.st_mtime_ns))
                except BaseException:
                    os.close(file)
                    raise
            try:
                if generation not in {None, known.st_mtime_ns}:
                    raise ObjectMissing(
                        f"gs://{bucket}/{name} has generation {known.st_mtime_ns}, not {generation}"
                    )
                written = sidecar.crc32c if sidecar else ""
                yield file, _info(bucket, name, known.st_mtime_ns, known.st_size, written, sidecar)
            finally:
                os.close(file)

    def _find(self, bucket: str, path: tuple[str, ...]) -> Path | None:
        folder = self._folder(bucket)
        places = (folder.joinpath(*path), folder.joinpath(*beside_folder(path)))
        present = next((place for place in places if place.is_file()), None)
        return self._within(bucket, present) if present else None

    def _place(self, bucket: str, path: tuple[str, ...]) -> Path:
        """Return where to put an object that is not there yet, its folders made."""
        here = self._folder(bucket)
        for depth, part in enumerate(path[:-1], start=1):
            here = self._within(bucket, here / part)
            if here.is_file():  # the object `a`, and now `a/b`: make room for the folder
                here.rename(self._folder(bucket).joinpath(*beside_folder(path[:depth])))
            here.mkdir(exist_ok=True)
        natural = here / path[-1]
        return self._folder(bucket).joinpath(*beside_folder(path)) if natural.is_dir() else natural

    def _sidecar(self, bucket: str, name: str, generation: int) -> Path:
        return sidecar_path(self._root / _META / bucket, name, generation)

    @contextmanager
    def _temporary(self, bucket: str, data: bytes) -> Iterator[Path]:
        """Give a file with `data` on the same file system, to be renamed into place or else removed."""
        folder = self._root / _META / bucket
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{uuid.uuid4().hex}.part"
        try:
            file.write_bytes(data)
            yield file
        finally:
            file.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, bucket: str, kind: int) -> Iterator[int]:
        self._require(bucket)
        folder = self._root / _META / bucket
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, kind)  # a file description of its own: excludes threads as well
            yield lock
        finally:
            os.close(lock)

    def _require(self, bucket: str) -> None:
        if not self._folder(bucket).is_dir():
            raise StoreMisconfigured(f"there is no bucket {bucket!r}: make the folder {self._folder(bucket)}")

    def _within(self, bucket: str, path: Path) -> Path:
        """Return `path`, unless a link on the way leads out of the bucket: no object's name may do that."""
        if not path.resolve().is_relative_to(self._folder(bucket).resolve()):
            raise NotAllowed(f"{path} is a link that leads out of the bucket {bucket!r}")
        return path

    def _folder(self, bucket: str) -> Path:
        check_bucket_name(bucket)
        return self._root / bucket


def _info(
    bucket: str, name: str, generation: int, size: int, checksum: str, known: Sidecar | ObjectInfo | None
) -> ObjectInfo:
    content_type = known.content_type if known else mimetypes.guess_type(name)[0]
    metadata = dict(known.metadata) if known else {}
    return ObjectInfo(
        bucket, name, generation, size, content_type or "application/octet-stream", metadata, checksum
    )


def _chunks(file: int) -> Generator[bytes, None, None]:
    while chunk := os.read(file, STREAM_BYTES):
        yield chunk


def _check_untouched(file: int, info: ObjectInfo) -> None:
    now = os.fstat(file)
    if (now.st_size, now.st_mtime_ns) != (info.size, info.generation):
        raise StoreUnavailable(f"{info.url} was being written by hand while it was read")


def _check_generation(bucket: str, name: str, current: int, expected: int | None) -> None:
    if expected not in {None, current}:
        is_now = f"has generation {current}" if current else "does not exist"
        raise PreconditionFailed(f"gs://{bucket}/{name} {is_now}, {expected} was expected")


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise StoreMisconfigured(f"{what}: {error}") from error
    except OSError as error:
        raise StoreUnavailable(f"{what}: {error}") from error
