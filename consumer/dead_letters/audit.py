"""The audit log: who did what to which letter; and so the memory that keeps one from being replayed twice.

A line is written after the broker confirmed a replay and before the letter is acked. Whatever ends the
process between the two, the next run finds the line, and acks the letter instead of replaying it again.
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import orjson
import structlog
from pydantic import AwareDatetime, BaseModel, ValidationError

log = structlog.get_logger()

Action = Literal["replay", "discard", "export", "import"]

_REMEMBERED: Final = timedelta(days=32)
"""Longer than a subscription can keep a message."""


class AuditFailed(Exception):
    """The audit log cannot be read or written; nothing should be done without it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What was done to one letter."""

    action: Action
    message_id: str
    """Of the dead letter; of an import, the id it had when it was exported."""
    publish_time: datetime
    """Of the same: an emulator that is started again gives the same ids again."""
    place: str
    """The dead-letter subscription; of an import, the topic."""
    published_as: str | None = None
    topic: str | None = None
    details: Mapping[str, str | int | None] = field(default_factory=dict)


class _Line(BaseModel):
    """What of a line is needed again."""

    time: AwareDatetime
    action: str
    place: str
    message_id: str
    publish_time: str
    published_as: str = ""


class Audit:
    """Appends to the log, and knows what stood in it before."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._done: dict[tuple[str, str, str, str], str] = {}
        self._descriptor: int | None = None
        self._by = {"user": _user(), "host": socket.gethostname()}

    def __enter__(self) -> Self:
        """Open the log.

        Raises:
            AuditFailed: it cannot be read and written.
        """
        try:
            self._read()
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
            self._end_torn_line()
        except OSError as error:
            raise AuditFailed(
                f"audit log {self._file}: {error.strerror}; name another file with --audit"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            with suppress(OSError):  # a pipe or a device cannot be synced
                os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def note(self, entry: Entry) -> None:
        """Write a line; it survives this process from now on.

        Raises:
            AuditFailed: it could not be written.
        """
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **self._by,
            "action": entry.action,
            "message_id": entry.message_id,
            "publish_time": entry.publish_time.isoformat(),
            "place": entry.place,
            "published_as": entry.published_as,
            "topic": entry.topic,
            **entry.details,
        }
        known = {name: value for name, value in line.items() if value is not None}
        data = orjson.dumps(known, option=orjson.OPT_APPEND_NEWLINE)
        try:
            if self._descriptor is None or os.write(self._descriptor, data) != len(data):
                raise AuditFailed(f"audit log {self._file}: the line was not written whole")
        except OSError as error:
            raise AuditFailed(f"audit log {self._file}: {error.strerror}") from error
        key = (entry.action, entry.place, entry.message_id, entry.publish_time.isoformat())
        self._done[key] = entry.published_as or ""
        log.info(f"dead_letter_{entry.action}", **{k: v for k, v in known.items() if k != "action"})

    def done(self, action: Action, place: str, message_id: str, publish_time: datetime) -> str | None:
        """Return what the letter was published as, or "", if this was done to it; None if not."""
        return self._done.get((action, place, message_id, publish_time.isoformat()))

    def _read(self) -> None:
        if not self._file.is_file():  # a device or a pipe remembers nothing
            return
        oldest = datetime.now(UTC) - _REMEMBERED
        with self._file.open("rb") as lines:
            for text in lines:
                try:
                    line = _Line.model_validate_json(text)
                except ValidationError:
                    continue  # torn by a crash, or not ours
                if line.time >= oldest:
                    key = (line.action, line.place, line.message_id, line.publish_time)
                    self._done[key] = line.published_as

    def _end_torn_line(self) -> None:
        if self._descriptor is None or not (size := os.fstat(self._descriptor).st_size):
            return
        if os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")


def _user() -> str:
    # By the process, not by the environment, which anybody may set.
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
