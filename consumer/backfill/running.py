"""What `backfill` does, from its options to the summary."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import orjson
from pydantic import JsonValue

from consumer.backfill.checkpoint import Progress, read_checkpoint
from consumer.backfill.photos import Photo, Request, Rules, identity_of
from consumer.backfill.publishing import Backfill, Tally, summary_of
from consumer.bars import bar
from consumer.broker import BrokerError, Publisher
from consumer.broker.publisher import PubSubPublisher
from consumer.broker.pubsub import Endpoint
from consumer.broker.rpc import RetryBudget
from consumer.interrupt import interruptible
from consumer.jobs import Ids
from consumer.sending import Pace
from consumer.settings import full_name
from consumer.storage import ObjectInfo, ObjectStore
from consumer.storage.object_names import check_bucket_name
from consumer.terminal import BAD_INPUT, DONE, FAILED, INTERRUPTED, complain, console, print_json
from consumer.validation import validate_json
from contracts.base import JsonObject
from contracts.request import check_tenant_id
from pipeline_steps.errors import InvalidInput

_SCHEME: Final = "gs://"
_NIL: Final = UUID(int=0)


class InvalidBackfill(ValueError):
    """What was asked for cannot be done; the message lists every reason."""


@dataclass(frozen=True, slots=True)
class What:
    """Which photos, and what each is asked for."""

    bucket: str
    prefix: str
    rules: Rules
    request: Request
    force: bool

    @property
    def name(self) -> str:
        """The prefix as it is typed."""
        return f"{_SCHEME}{self.bucket}/{self.prefix}"


@dataclass(frozen=True, slots=True)
class How:
    """Where to, how fast, and what is shown."""

    project: str
    topic: str
    emulator: str | None
    storage_emulator: str | None
    timeout: float
    rate: float | None
    limit: int | None
    dry_run: bool
    json_output: bool


def what_of(
    photos: str,
    pipeline: bytes,
    settings: bytes | None,
    *,
    tenant: str | None,
    session: str | None,
    match: str | None,
    callback_url: str | None,
    force: bool,
) -> What:
    """Return what the options mean.

    Raises:
        InvalidBackfill: with every problem, each with its place.
    """
    problems: list[str] = []
    bucket, _, prefix = photos.removeprefix(_SCHEME).partition("/")
    if not photos.startswith(_SCHEME):
        problems.append(f"{photos}: expected gs://bucket/prefix")
    else:
        try:
            check_bucket_name(bucket)
        except InvalidInput as error:
            problems.append(str(error))
    pattern = session_id = None
    try:
        session_id = UUID(session) if session else None
    except ValueError:
        problems.append(f"--session: {session!r} is no UUID")
    try:
        pattern = re.compile(match, re.DOTALL) if match else None
    except re.error as error:
        problems.append(f"--match: not a regular expression: {error}")
    try:
        if tenant is not None:
            check_tenant_id(tenant)
    except ValueError as error:
        problems.append(f"--tenant: {error}")
    definition = _json_of("--pipeline", pipeline, problems)
    given = _json_of("--settings", settings, problems) if settings is not None else {}
    request = Request(definition, given, callback_url)
    if not problems:
        problems += _problems_of(request)
    if problems:
        raise InvalidBackfill("\n".join(problems))
    return What(bucket, prefix, Rules(tenant, session_id, pattern), request, force)


async def run_backfill(what: What, how: How, checkpoint: Path | None) -> int:
    """Publish for every photo, and return the exit code.

    Raises:
        InvalidCheckpoint: the file cannot be used.
        StepError: the bucket cannot be listed.
    """
    topic = full_name("topics", how.topic, how.project)
    identity = identity_of(what.bucket, what.prefix, what.rules, what.request, topic, force=what.force)
    file = checkpoint or Path(f"backfill-{identity[:12]}.json")
    progress = Progress(None if how.dry_run else file, read_checkpoint(file, identity, what.name))
    if progress.after:
        complain("going on", f"after {progress.after}: {progress.published} published before", "default")
    tally = Tally()
    async with interruptible(_say_that_it_stops) as stop:
        try:
            async with _store(how) as store, _publisher(how) as publisher:
                with bar("photos counted" if how.dry_run else "requests published", None) as show:
                    backfill = Backfill(
                        store,
                        publisher,
                        what.bucket,
                        what.prefix,
                        topic,
                        what.rules,
                        what.request,
                        progress,
                        stop,
                        tally,
                        force=what.force,
                        on_done=show,
                    )
                    await backfill.run(how.limit, Pace(None if how.dry_run else how.rate))
        except BrokerError as error:  # no credentials
            tally.trouble, tally.needs_operator = str(error), True
    return _report(what, how, tally, progress, file, interrupted=stop.interrupted)


@asynccontextmanager
async def _store(how: How) -> AsyncIterator[ObjectStore]:
    from consumer.storage.gcs import GcsStore  # slow to import: what is wrong was said by now

    store = await asyncio.to_thread(GcsStore, how.project, how.storage_emulator, retry_s=how.timeout)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _publisher(how: How) -> AsyncIterator[Publisher | None]:
    if how.dry_run:
        yield None
        return
    budget = RetryBudget(total=how.timeout, per_call=min(how.timeout, 10.0))
    endpoint = await asyncio.to_thread(Endpoint(emulator=how.emulator).ready)
    publisher = PubSubPublisher(how.project, endpoint, budget)
    try:
        yield publisher
    finally:
        await publisher.close()


def _report(what: What, how: How, tally: Tally, progress: Progress, file: Path, *, interrupted: bool) -> int:
    if tally.outside:
        complain(
            "warning",
            f"{tally.outside} photos do not lie in their tenant's folder: the worker takes them only if its "
            "IMAGE_PREFIXES allow it",
            "yellow",
        )
    if tally.trouble:
        complain("stopped", tally.trouble, "red")
    if how.json_output:
        print_json(summary_of(tally, progress, dry_run=how.dry_run, interrupted=interrupted))
    else:
        _print(what, how, tally, file)
    if interrupted:
        return INTERRUPTED
    if tally.trouble:
        return BAD_INPUT if tally.needs_operator else FAILED
    return DONE


def _print(what: What, how: How, tally: Tally, file: Path) -> None:
    out = console()
    if how.dry_run:
        for photo in tally.sample:
            out.print(f"{photo.info.url}  tenant {photo.ids.tenant_id}", markup=False, soft_wrap=True)
    done = "would publish" if how.dry_run else "published"
    words = f"{done} {tally.published} requests for {tally.listed} objects under {what.name}"
    if tally.skipped:
        words += f"; skipped {', '.join(f'{count} {why}' for why, count in tally.skipped.most_common())}"
    if not tally.complete and not how.dry_run:
        words += f"; not all: the same command goes on ({file})"
    out.print(words, markup=False, soft_wrap=True)


def _problems_of(request: Request) -> list[str]:
    """Return what a worker would mind in the messages; all have the same pipeline and settings."""
    sample = Photo(ObjectInfo("bucket", "tenant/photo.jpg", 1, 1), Ids("tenant", _NIL, _NIL))
    try:
        data = request.body(sample)
    except orjson.JSONEncodeError as error:
        return [f"--pipeline: nested too deep: {str(error).lower()}"]
    # The worker that will get them may have other models than this machine.
    return [str(problem) for problem in validate_json(data, model_path=None).problems]


def _json_of(option: str, data: bytes, problems: list[str]) -> JsonObject:
    try:
        content: JsonValue = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        problems.append(f"{option}: not JSON: {error}")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{option}: expected a JSON object, got {type(content).__name__}")
        return {}
    return content


def _say_that_it_stops() -> None:
    complain("stopping", "what is under way is finished; Ctrl-C again ends it at once", "yellow")
