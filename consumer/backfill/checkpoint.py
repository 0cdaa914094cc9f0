"""How far a backfill got: the last name such that everything up to it is published and confirmed."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from contracts.base import Contract

WINDOW: Final = 1000
_SAVE_EVERY: Final = 1.0


class InvalidCheckpoint(ValueError):
    """The file cannot be used; the message says why, and what to do."""


class Checkpoint(Contract):
    """What is kept in the file."""

    identity: str
    """Of the backfill: a checkpoint of another one means nothing here."""
    what: str
    """The same for people."""
    after: str = ""
    published: int = Field(0, ge=0)
    """By all runs so far."""


class Progress:
    """Photos are published side by side and confirmed in any order; the mark moves in the order of names.

    Args:
        file: where it is kept, about every second; None keeps nothing.
        checkpoint: where it begins.
        window: names that may be seen to before the first of them is confirmed: the most that a run which
            is killed leaves to be published again, and the most that is held in memory.
        clock: for tests.
    """

    def __init__(
        self,
        file: Path | None,
        checkpoint: Checkpoint,
        window: int = WINDOW,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._checkpoint = checkpoint
        self._window = window
        self._clock = clock
        self._saved_at = clock()
        self._order: deque[str] = deque()
        self._under_way: set[str] = set()
        self._moved = asyncio.Event()
        self._stuck = False

    @property
    def after(self) -> str:
        """Everything up to this name is done."""
        return self._checkpoint.after

    @property
    def published(self) -> int:
        """Photos whose publishing was confirmed, by all runs so far."""
        return self._checkpoint.published

    async def room(self) -> None:
        """Wait until another name may be seen to; at once if no more will be, because one failed."""
        while len(self._order) >= self._window and not self._stuck:
            self._moved.clear()
            await self._moved.wait()

    def begin(self, name: str) -> None:
        """Note that this photo, the next by name, is being published."""
        self._order.append(name)
        self._under_way.add(name)

    def passed(self, name: str) -> None:
        """Note that this object, the next by name, needs nothing."""
        self._order.append(name)
        self._advance(0)

    def confirmed(self, name: str) -> None:
        """Note that this photo was published."""
        self._under_way.discard(name)
        self._advance(1)

    def failed(self) -> None:
        """Note that a photo could not be published: the mark stays before it."""
        self._stuck = True
        self._moved.set()

    def save(self) -> None:
        """Write the file; nobody ever sees a part of it.

        Raises:
            InvalidCheckpoint: it cannot be written.
        """
        if self._file is None:
            return
        part = self._file.with_name(f"{self._file.name}.part")
        try:
            with part.open("wb") as output:
                output.write(self._checkpoint.model_dump_json(indent=2).encode())
                output.flush()
                os.fsync(output.fileno())
            part.replace(self._file)
        except OSError as error:
            raise InvalidCheckpoint(
                f"cannot write {self._file}: {error.strerror}; name another file with --checkpoint"
            ) from error
        self._saved_at = self._clock()

    def finish(self) -> None:
        """Everything is done: the next backfill of the same begins anew."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _advance(self, published: int) -> None:
        after = self.after
        while self._order and self._order[0] not in self._under_way:
            after = self._order.popleft()
        self._checkpoint = self._checkpoint.model_copy(
            update={"after": after, "published": self.published + published}
        )
        self._moved.set()
        if self._clock() - self._saved_at >= _SAVE_EVERY:
            self.save()


def read_checkpoint(file: Path, identity: str, what: str) -> Checkpoint:
    """Return where the last run of this backfill ended; where none was cut short, the beginning.

    Raises:
        InvalidCheckpoint: the file is another backfill's, or damaged.
    """
    try:
        checkpoint = Checkpoint.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return Checkpoint(identity=identity, what=what)
    except (OSError, ValidationError) as error:
        raise InvalidCheckpoint(
            f"{file} is no checkpoint that can be read: remove it to begin anew"
        ) from error
    if checkpoint.identity != identity:
        raise InvalidCheckpoint(
            f"{file} is the checkpoint of another backfill ({checkpoint.what}), or of this one with another "
            "pipeline or other options: remove it to begin anew, or name another file with --checkpoint"
        )
    return checkpoint
