"""Originals too large for their dead letter: kept in the bucket, fetched by the claim check it carries."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from pydantic import ValidationError

from consumer.dead_letters.envelope import DeadLetter, original_of
from consumer.storage import ObjectStore, PreconditionFailed
from contracts.dead_letter import StoredMessage
from contracts.request import split_object_url

FOLDER: Final = "dead-letters/"
"""Where the worker keeps them; a claim check that leads elsewhere is not its own, and is not followed."""


class Unreadable(Exception):
    """The original cannot be had; the message says why, and what to do."""


@dataclass
class StoredOriginals:
    """Reads originals from the bucket, which is opened when the first is asked for."""

    open_store: Callable[[], ObjectStore]
    bucket: str | None
    _store: ObjectStore | None = field(default=None)

    async def filled(self, letter: DeadLetter) -> DeadLetter:
        """Return the letter with its original, or with the reason why it cannot be had."""
        if letter.claim_check is None:
            return letter
        try:
            stored = await self.read(letter.claim_check)
            data = base64.b64decode(stored.data_base64, validate=True)
        except Unreadable as error:
            return replace(letter, unreadable=str(error))
        except binascii.Error as error:
            return replace(letter, unreadable=f"{letter.claim_check} holds no base64: {error}")
        return replace(letter, original=original_of(data, stored.attributes))

    async def read(self, url: str) -> StoredMessage:
        """Return the message that is kept there.

        Raises:
            Unreadable: it cannot be had.
        """
        from pipeline_steps.errors import StepError  # slow to import, and seldom needed

        bucket, name = self._place(url)
        try:
            found = await (await self._opened()).read(bucket, name)
            return StoredMessage.model_validate_json(found.data)
        except StepError as error:
            raise Unreadable(f"the original cannot be read: {error}") from error
        except ValidationError as error:
            raise Unreadable(f"{url} is not what the worker keeps: {error.error_count()} problems") from error

    async def write(self, url: str, message: StoredMessage) -> None:
        """Keep the message there, unless something is.

        Raises:
            Unreadable: it cannot be written.
        """
        from pipeline_steps.errors import StepError

        bucket, name = self._place(url)
        try:
            await (await self._opened()).write(
                bucket,
                name,
                message.model_dump_json().encode(),
                content_type="application/json",
                if_generation_match=0,
            )
        except PreconditionFailed:
            return
        except StepError as error:
            raise Unreadable(f"the original cannot be written back: {error}") from error

    async def close(self) -> None:
        """Release connections."""
        if self._store is not None:
            await self._store.close()

    def _place(self, url: str) -> tuple[str, str]:
        if self.bucket is None:
            raise Unreadable(f"the original is at {url}: name the bucket with BUCKET (or --bucket)")
        try:
            bucket, name = split_object_url(url)
        except ValueError as error:
            raise Unreadable(f"claim check {url!r}: {error}") from error
        if bucket != self.bucket or not name.startswith(FOLDER):
            raise Unreadable(
                f"claim check {url} is not followed: it leads out of gs://{self.bucket}/{FOLDER}"
            )
        return bucket, name

    async def _opened(self) -> ObjectStore:
        if self._store is None:
            self._store = await asyncio.to_thread(self.open_store)
        return self._store
