"""Listing photos and publishing a request for each, a bounded number at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from consumer.backfill.checkpoint import InvalidCheckpoint, Progress
from consumer.backfill.photos import Photo, Request, Rules, Skipped
from consumer.broker import BrokerError, BrokerUnavailable, Publisher
from consumer.decode import FORCE
from consumer.interrupt import Stop
from consumer.sending import Pace, start_each
from consumer.storage import ObjectStore

_SAMPLE: Final = 10


@dataclass
class Tally:
    """What was done by this run."""

    listed: int = 0
    published: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    outside: int = 0
    """Photos that do not lie in their tenant's folder."""
    sample: list[Photo] = field(default_factory=list)
    """The first few photos."""
    complete: bool = False
    """Whether everything under the prefix was seen to."""
    trouble: str = ""
    """Why it ended early."""
    needs_operator: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """A photo as it is shown to machines."""

    image_url: str
    tenant_id: str
    session_id: UUID
    image_id: UUID


@dataclass(frozen=True, slots=True)
class Summary:
    """What `--json` prints."""

    listed: int
    published: int
    skipped: Mapping[str, int]
    outside_tenant_folder: int
    published_by_all_runs: int
    after: str
    complete: bool
    sample: Sequence[Sample]
    trouble: str | None
    dry_run: bool
    interrupted: bool


@dataclass(frozen=True, slots=True)
class Backfill:
    """One run over a prefix."""

    store: ObjectStore
    publisher: Publisher | None
    """None only counts."""
    bucket: str
    prefix: str
    topic: str
    rules: Rules
    request: Request
    progress: Progress
    stop: Stop
    tally: Tally
    force: bool = False
    on_done: Callable[[int], None] = lambda _: None

    async def run(self, limit: int | None, pace: Pace) -> None:
        """Publish what follows the checkpoint, and keep how far it got.

        Raises:
            StoreUnavailable, StoreMisconfigured: the bucket cannot be listed.
            InvalidCheckpoint: how far it got cannot be kept.
        """
        try:
            async with aclosing(self._photos(limit)) as photos:
                await start_each(photos, self._publish, stop=self.stop, pace=pace)
            self.tally.complete = self.tally.complete and not self.stop
        finally:
            if self.tally.complete:
                self.progress.finish()
            elif self.progress.after:
                self.progress.save()

    async def _photos(self, limit: int | None) -> AsyncGenerator[Photo, None]:
        given = 0
        async for info in self.store.list(self.bucket, self.prefix, after=self.progress.after):
            await self.progress.room()
            photo = self.rules.photo_of(info)
            if isinstance(photo, Skipped):
                self.tally.listed += 1
                self.tally.skipped[photo] += 1
                self.progress.passed(info.name)
                if self.stop:
                    return
                continue
            if limit is not None and given >= limit:
                return
            given += 1
            self.tally.listed += 1
            self.tally.outside += not info.name.startswith(f"{photo.ids.tenant_id}/")
            if len(self.tally.sample) < _SAMPLE:
                self.tally.sample.append(photo)
            self.progress.begin(info.name)
            yield photo
        self.tally.complete = True

    async def _publish(self, photo: Photo) -> None:
        if self.publisher is not None:
            try:
                await self.publisher.publish(self.topic, self.request.body(photo), self._attributes())
            except BrokerError as error:
                unsure = isinstance(error, BrokerUnavailable)
                self._end(f"{photo.info.url}: {error}", needs_operator=not unsure)
                self.progress.failed()
                return
        self.tally.published += 1
        try:
            self.progress.confirmed(photo.info.name)
        except InvalidCheckpoint as error:
            self._end(str(error), needs_operator=True)
        self.on_done(self.tally.published)

    def _attributes(self) -> dict[str, str]:
        return {FORCE: "1"} if self.force else {}

    def _end(self, why: str, *, needs_operator: bool) -> None:
        self.tally.trouble = self.tally.trouble or why
        self.tally.needs_operator = self.tally.needs_operator or needs_operator
        self.stop.ask()


def summary_of(tally: Tally, progress: Progress, *, dry_run: bool, interrupted: bool) -> Summary:
    """Return what machines are told of a run."""
    return Summary(
        listed=tally.listed,
        published=tally.published,
        skipped={str(why): count for why, count in tally.skipped.items()},
        outside_tenant_folder=tally.outside,
        published_by_all_runs=progress.published,
        after=progress.after,
        complete=tally.complete,
        sample=[
            Sample(photo.info.url, photo.ids.tenant_id, photo.ids.session_id, photo.ids.image_id)
            for photo in tally.sample
        ],
        trouble=tally.trouble or None,
        dry_run=dry_run,
        interrupted=interrupted,
    )
