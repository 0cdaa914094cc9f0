"""Dead letters in a file: one JSON object a line, whole enough to be published again."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from pydantic import Field, ValidationError

from consumer.dead_letters.envelope import DeadLetter
from consumer.pipeline.problems import problems_of
from contracts.base import Contract
from contracts.dead_letter import StoredMessage

_MAX_PROBLEMS: Final = 20


class InvalidArchive(ValueError):
    """The file cannot be used; the message says why, for a bad line with its number."""


class ArchivedLetter(Contract):
    """One line: the dead letter as it lay in the topic, and its original if that was kept in the bucket."""

    message_id: str = Field(min_length=1)
    publish_time: datetime
    subscription: str
    data_base64: str
    attributes: dict[str, str]
    claim_check: str | None = None
    stored: StoredMessage | None = None
    exported_at: datetime

    @property
    def data(self) -> bytes:
        """The letter's bytes."""
        return base64.b64decode(self.data_base64)


def archived(letter: DeadLetter, subscription: str, stored: StoredMessage | None) -> ArchivedLetter:
    """Return the line of a letter."""
    return ArchivedLetter(
        message_id=letter.id,
        publish_time=letter.delivery.publish_time,
        subscription=subscription,
        data_base64=base64.b64encode(letter.delivery.data).decode(),
        attributes=dict(letter.delivery.attributes),
        claim_check=letter.claim_check,
        stored=stored,
        exported_at=datetime.now(UTC),
    )


@contextmanager
def new_archive(file: Path) -> Iterator[BinaryIO]:
    """Give a file to write to, which bears its name only once it is whole and on the disk.

    Raises:
        InvalidArchive: there is such a file already, or it cannot be written.
    """
    part = file.with_name(f"{file.name}.part")
    if file.exists():
        raise InvalidArchive(f"{file} is there already: name another file")
    try:
        output = part.open("xb")
    except FileExistsError as error:
        raise InvalidArchive(f"{part} is there: another export is running, or one was cut short") from error
    except OSError as error:
        raise InvalidArchive(f"cannot write {file}: {error.strerror}") from error
    try:
        with output:
            yield output
            output.flush()
            os.fsync(output.fileno())
        part.rename(file)
        _sync_folder(file.parent)
    except OSError as error:
        raise InvalidArchive(f"cannot write {file}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def write_letter(output: BinaryIO, letter: ArchivedLetter) -> None:
    """Append a line."""
    output.write(letter.model_dump_json(exclude_none=True).encode() + b"\n")


def check_archive(file: Path) -> int:
    """Return how many letters the file holds; nothing should be published of one that is damaged.

    Raises:
        InvalidArchive: with every bad line, its number and what is wrong.
    """
    problems: list[str] = []
    count = 0
    for number, line in _lines(file):
        count += 1
        problems += [f"{file}:{number}: {problem}" for problem in _problems(line)]
        if len(problems) > _MAX_PROBLEMS:
            problems = [*problems[:_MAX_PROBLEMS], "and more"]
            break
    if problems:
        raise InvalidArchive("\n".join(problems))
    return count


def read_archive(file: Path) -> Iterator[ArchivedLetter]:
    """Yield the letters of a file that was checked.

    Raises:
        InvalidArchive: it was changed since.
    """
    for number, line in _lines(file):
        if problems := _problems(line):
            raise InvalidArchive(f"{file}:{number}: {problems[0]}")
        yield ArchivedLetter.model_validate_json(line)


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise InvalidArchive(f"cannot read {file}: {error.strerror}") from error


def _problems(line: bytes) -> Sequence[str]:
    try:
        letter = ArchivedLetter.model_validate_json(line)
        base64.b64decode(letter.data_base64, validate=True)
    except ValidationError as error:
        return [str(problem) for problem in problems_of(error)]
    except binascii.Error as error:
        return [f"data_base64: not base64: {error}"]
    return []


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
