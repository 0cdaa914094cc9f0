"""What was already done for a piece of work, kept in the bucket beside the tenant's pictures.

`{tenant}/results/{session}/{image}/{result_id}` with the endings

- `.json`: the result, written once; from here on nothing expensive is done again,
- `.failed`: the failed result of the message that was given up, with how far that has come,
- `.attempts`: how many runs failed, or started and never ended,
- `.claim`: who works on it now, or that all is done (`claims.py`); made before any of the others.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

import orjson
from pydantic import ValidationError

from consumer.errors import CorruptRecord
from consumer.jobs import Job, of_generation
from consumer.storage import ObjectStore, PreconditionFailed, StoredObject
from contracts.result import ProcessingResult
from pipeline_steps.errors import ObjectMissing

_MESSAGE = "message-id"
_ATTEMPTS, _RECORDED, _LEGS, _DONE = "attempts", "recorded", "legs", "done"
"""Metadata of a failed result."""


class Leg(StrEnum):
    """What giving up has to do, in this order, before the message is acked."""

    DEAD_LETTERED = "dead-lettered"
    PUBLISHED = "published"
    CALLED_BACK = "called-back"


@dataclass(frozen=True, slots=True)
class Attempts:
    """Runs of a job that failed, or started and never ended."""

    count: int = 0
    last: str = ""
    """The code of the last one."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A message that is being given up, and how far that has come."""

    result: ProcessingResult
    """What is told of it: that it failed, and why."""
    attempts: int
    """How many runs failed before."""
    was_recorded: bool = False
    """Whether a good result is recorded, of which only the delivery failed."""
    legs: frozenset[Leg] = frozenset()
    done: bool = False
    """All of them: only the ack is missing."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the ledger knows of a job."""

    job: Job
    """The job, perhaps under the identity of a photo that replaced the recorded one."""
    result: ProcessingResult | None = None
    """Recorded: resume by delivering it."""
    given_up: GivenUp | None = None
    """This very message is being given up: resume that instead."""
    attempts: Attempts = Attempts()


class Ledger(Protocol):
    """Where work is recorded."""

    async def look_up(self, job: Job, message_id: str) -> Entry:
        """Return what is known of the job, as far as this message may use it."""
        ...

    async def recorded(self, job: Job, message_id: str) -> Entry:
        """Return what was recorded of the job, or the job that it is now: its photo may be another."""
        ...

    async def record(self, job: Job, result: ProcessingResult, message_id: str) -> ProcessingResult:
        """Keep the result and return the one that counts: an earlier one of the same work wins."""
        ...

    async def given_up(self, job: Job, message_id: str) -> GivenUp | None:
        """Return how far giving up this very message has come, if it was begun."""
        ...

    async def keep_given_up(self, job: Job, given_up: GivenUp, message_id: str) -> None:
        """Keep how far giving up this message has come."""
        ...

    async def count_attempt(self, job: Job, code: str) -> Attempts:
        """Count a run that failed or never ended, and return all so far."""
        ...

    async def forget_attempts(self, job: Job) -> None:
        """Start counting anew: the work is done, or given up and may be replayed."""
        ...

    async def claim(self, job: Job, result: ProcessingResult) -> str:
        """Return the url under which readers find a result too large for a message."""
        ...


class BucketLedger:
    """The ledger in the bucket."""

    def __init__(self, store: ObjectStore, bucket: str) -> None:
        self._store = store
        self._bucket = bucket

    async def look_up(self, job: Job, message_id: str) -> Entry:
        """Return what is known of the job, from three objects asked for at once."""
        failed, record, attempts = await asyncio.gather(
            *(self._read(job, ending) for ending in ("failed", "json", "attempts"))
        )
        if given_up := _given_up(failed, job, message_id):
            return Entry(job, given_up=given_up)
        entry = await self._entry(job, record, message_id)
        return replace(entry, attempts=_attempts(attempts)) if entry.job is job else entry

    async def recorded(self, job: Job, message_id: str) -> Entry:
        """Return what was recorded; a record of a photo that was replaced since is not this job's."""
        return await self._entry(job, await self._read(job, "json"), message_id)

    async def record(self, job: Job, result: ProcessingResult, message_id: str) -> ProcessingResult:
        """Write the result once: the commit point of the expensive work."""
        try:
            await self._write(job, "json", result.as_json, {_MESSAGE: message_id}, only_if_new=True)
        except PreconditionFailed:
            earlier = await self._read(job, "json")
            if earlier is not None:
                return _result(earlier, job)
            raise
        return result

    async def given_up(self, job: Job, message_id: str) -> GivenUp | None:
        """Read the failed result; another message's is none of this one's."""
        return _given_up(await self._read(job, "failed"), job, message_id)

    async def keep_given_up(self, job: Job, given_up: GivenUp, message_id: str) -> None:
        """Write the failed result, with what has been done about it."""
        metadata = {
            _MESSAGE: message_id,
            _ATTEMPTS: str(given_up.attempts),
            _RECORDED: "1" if given_up.was_recorded else "0",
            _LEGS: ",".join(sorted(given_up.legs)) or "none",
            _DONE: "1" if given_up.done else "0",
        }
        await self._write(job, "failed", given_up.result.as_json, metadata)

    async def count_attempt(self, job: Job, code: str) -> Attempts:
        """Count a run; two workers that count at once are both counted."""
        while True:
            earlier = await self._read(job, "attempts")
            attempts = Attempts(_attempts(earlier).count + 1, code)
            try:
                await self._store.write(
                    self._bucket,
                    object_name(job, "attempts"),
                    orjson.dumps({"count": attempts.count, "last": attempts.last}),
                    content_type="application/json",
                    if_generation_match=earlier.info.generation if earlier else 0,
                )
            except PreconditionFailed:
                continue
            return attempts

    async def forget_attempts(self, job: Job) -> None:
        """Delete the count."""
        await self._store.delete(self._bucket, object_name(job, "attempts"))

    async def claim(self, job: Job, result: ProcessingResult) -> str:
        """Return the url of the record."""
        del result
        return f"gs://{self._bucket}/{object_name(job, 'json')}"

    async def _entry(self, job: Job, record: StoredObject | None, message_id: str) -> Entry:
        if record is None:
            return Entry(job)
        result = _result(record, job)
        if (
            record.info.metadata.get(_MESSAGE) == message_id
            or result.image_generation is None
            or await self._is_current(job, result)
        ):
            return Entry(job, result)
        current = await self._store.stat(job.source.bucket, job.source.name)
        return Entry(replace(job, result_id=of_generation(job.result_id, current.generation)))

    async def _is_current(self, job: Job, result: ProcessingResult) -> bool:
        if job.source.generation is not None:
            return True  # the identity itself names the generation
        try:
            info = await self._store.stat(job.source.bucket, job.source.name)
        except ObjectMissing:
            return True  # the photo is gone, what was seen on it stays true
        return info.generation == result.image_generation

    async def _read(self, job: Job, ending: str) -> StoredObject | None:
        try:
            return await self._store.read(self._bucket, object_name(job, ending))
        except ObjectMissing:
            return None

    async def _write(
        self, job: Job, ending: str, data: bytes, metadata: dict[str, str], *, only_if_new: bool = False
    ) -> None:
        await self._store.write(
            self._bucket,
            object_name(job, ending),
            data,
            content_type="application/json",
            metadata=metadata,
            if_generation_match=0 if only_if_new else None,
        )


def object_name(job: Job, ending: str) -> str:
    """Return where the ledger keeps something of a job."""
    ids = job.ids
    return f"{ids.tenant_id}/results/{ids.session_id}/{ids.image_id}/{job.result_id}.{ending}"


def _attempts(stored: StoredObject | None) -> Attempts:
    if stored is None:
        return Attempts()
    body = orjson.loads(stored.data)
    return Attempts(int(body["count"]), str(body["last"]))


def _result(stored: StoredObject, job: Job) -> ProcessingResult:
    where = stored.info.url
    try:
        # A newer worker may have recorded it, before it was rolled back.
        result = ProcessingResult.model_validate_json(stored.data, extra="ignore")
    except ValidationError as error:
        raise CorruptRecord(f"{where} is no result; delete it and replay the message: {error}") from error
    if (result.tenant_id, result.result_id) != (job.ids.tenant_id, job.result_id):
        raise CorruptRecord(f"{where} holds another job's result; delete it and replay the message")
    return result


def _given_up(stored: StoredObject | None, job: Job, message_id: str) -> GivenUp | None:
    if stored is None or stored.info.metadata.get(_MESSAGE) != message_id:
        return None  # another message's failure is no reason not to run
    said = stored.info.metadata
    return GivenUp(
        _result(stored, job),
        int(said.get(_ATTEMPTS, "0")),
        was_recorded=said.get(_RECORDED) == "1",
        legs=frozenset(leg for leg in Leg if leg in said.get(_LEGS, "").split(",")),
        done=said.get(_DONE) == "1",
    )
