"""Publishing an export to the dead-letter topic again, so that nothing in it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from consumer.bars import bar
from consumer.broker import BrokerError, BrokerMisconfigured, MessageTooLarge, Publisher
from consumer.broker.publisher import PubSubPublisher
from consumer.dead_letters.archive import ArchivedLetter, check_archive, read_archive
from consumer.dead_letters.audit import Audit, AuditFailed, Entry
from consumer.dead_letters.desk import Place, say_that_it_stops
from consumer.dead_letters.showing import say
from consumer.dead_letters.stored import StoredOriginals, Unreadable
from consumer.dead_letters.targets import Targets
from consumer.interrupt import Stop, interruptible
from consumer.sending import Pace, start_each
from consumer.settings import full_name
from consumer.terminal import BAD_INPUT, DONE, FAILED, INTERRUPTED, complain, print_json


@dataclass
class Imported:
    """What was done."""

    published: dict[str, str] = field(default_factory=dict)
    """Each letter's id when it was exported, and its new one."""
    already: int = 0
    """Published by an earlier import of the same file, as the audit log tells."""
    failed: dict[str, str] = field(default_factory=dict)
    """Those that were not published, and why."""
    trouble: str = ""
    """Why it ended early."""
    needs_operator: bool = False


@dataclass(frozen=True, slots=True)
class Importer:
    """Publishes the letters of a file, each at most once for one audit log."""

    publisher: Publisher
    originals: StoredOriginals
    audit: Audit
    topic: str
    stop: Stop
    done: Imported
    on_done: Callable[[], None]

    async def run(self, file: Path, limit: int | None, pace: Pace) -> None:
        """Publish what the file holds.

        Raises:
            InvalidArchive: the file was changed since it was checked.
        """

        async def each() -> AsyncIterator[ArchivedLetter]:
            for letter in pending(file, self.audit, self.topic, self.done, limit):
                yield letter
                await asyncio.sleep(0)

        await start_each(each(), self._publish, stop=self.stop, pace=pace)

    async def _publish(self, letter: ArchivedLetter) -> None:
        try:
            if letter.claim_check is not None and letter.stored is not None:
                await self.originals.write(letter.claim_check, letter.stored)
            published_as = await self.publisher.publish(self.topic, letter.data, letter.attributes)
            self.done.published[letter.message_id] = published_as
            self.audit.note(
                Entry("import", letter.message_id, letter.publish_time, self.topic, published_as, self.topic)
            )
        except (Unreadable, MessageTooLarge) as error:
            self.done.failed[letter.message_id] = str(error)
        except AuditFailed as error:
            self._end(str(error))
        except BrokerError as error:
            self.done.failed[letter.message_id] = "not confirmed"
            self._end(str(error))
            self.done.needs_operator |= isinstance(error, BrokerMisconfigured)
        else:
            self.on_done()

    def _end(self, why: str) -> None:
        self.done.trouble = self.done.trouble or why
        self.stop.ask()


def pending(
    file: Path, audit: Audit, topic: str, done: Imported, limit: int | None
) -> Iterator[ArchivedLetter]:
    """Yield what is still to be published, and count what an earlier import did.

    Raises:
        InvalidArchive: the file was changed since it was checked.
    """
    given = 0
    for letter in read_archive(file):
        if limit is not None and given >= limit:
            return
        if audit.done("import", topic, letter.message_id, letter.publish_time) is not None:
            done.already += 1
            continue
        given += 1
        yield letter


async def import_letters(
    place: Place,
    file: Path,
    topic: str,
    audit_file: Path,
    *,
    rate: float | None,
    limit: int | None,
    dry_run: bool,
    json_output: bool,
) -> int:
    """Publish what a file holds to the dead-letter topic, and return the exit code.

    Raises:
        InvalidArchive: the file cannot be used.
        NobodyListens: what is published to the topic would be lost.
        BrokerError: that cannot be found out.
    """
    count = check_archive(file)
    target = full_name("topics", topic, place.project)
    done, stop = Imported(), Stop()
    would = 0
    with Audit(audit_file) as audit:
        if dry_run:
            would = sum(1 for _ in pending(file, audit, target, done, limit))
        else:
            await _check_listeners(place, target)
            async with interruptible(say_that_it_stops) as stop:
                await _publish_all(place, file, target, audit, done, stop, count, Pace(rate), limit)
    for name, why in done.failed.items():
        complain(f"not published {name}", why, "yellow")
    if done.trouble:
        complain("stopped", done.trouble, "red")
    if json_output:
        print_json(
            {
                "file": str(file),
                "topic": target,
                "letters": count,
                "dry_run": dry_run,
                "published": done.published,
                "already": done.already,
                "failed": done.failed,
                "interrupted": stop.interrupted,
                "trouble": done.trouble or None,
            }
        )
    else:
        what = f"would publish {would}" if dry_run else f"published {len(done.published)}"
        before = f"; {done.already} had been published before" if done.already else ""
        say(f"{what} of {count} letters to {target}{before}")
    if stop.interrupted:
        return INTERRUPTED
    if done.trouble:
        return BAD_INPUT if done.needs_operator else FAILED
    return FAILED if done.failed else DONE


async def _check_listeners(place: Place, topic: str) -> None:
    targets = Targets(place.project, place.endpoint, place.budget)
    try:
        target = await targets.of_topic(topic)
    finally:
        await targets.close()
    if target.unsure:
        complain("warning", target.unsure, "yellow")


async def _publish_all(
    place: Place,
    file: Path,
    topic: str,
    audit: Audit,
    done: Imported,
    stop: Stop,
    count: int,
    pace: Pace,
    limit: int | None,
) -> None:
    publisher = PubSubPublisher(place.project, place.endpoint, place.budget)
    originals = place.originals()
    try:
        with bar("imported", count) as show:

            def progress() -> None:
                show(len(done.published) + done.already)

            importer = Importer(publisher, originals, audit, topic, stop, done, progress)
            await importer.run(file, limit, pace)
    finally:
        await originals.close()
        await publisher.close()
