"""What was already done for a piece of work, kept in the bucket beside the tenant's pictures.

`{tenant}/results/{session}/{image}/{result_id}` with the endings

- `.json`: the result, written once; from here on nothing expensive is done again,
- `.done`: published and called back; only the ack is missing,
- `.failed`: the failed result of the message that was given up, with the legs already done,
- `.attempts`: how many runs failed, or started and never ended,
- `.claim`: who works on it now (`claims.py`).
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

_MESSAGE, _DONE, _LEGS = "message-id", "done", "legs"


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
class Entry:
    """What the ledger knows of a job."""

    job: Job
    """The job, perhaps under the identity of a photo that replaced the recorded one."""
    result: ProcessingResult | None = None
    """Recorded: resume by delivering it."""
    done: bool = False
    """Delivered too: only the ack is missing."""
    was_recorded: bool = False
    """Of a failed result: whether a good one is recorded, of which only the delivery failed."""
    legs: frozenset[Leg] = frozenset()
    """Of a failed result: what was already done about it."""
    attempts: Attempts = Attempts()


class Ledger(Protocol):
    """Where work is recorded."""

    async def look_up(self, job: Job, message_id: str) -> Entry:
        """Return what was recorded of the job, as far as this message may use it."""
        ...

    async def record(self, job: Job, result: ProcessingResult, message_id: str) -> ProcessingResult:
        """Keep the result and return the one that counts: an earlier one of the same work wins."""
        ...

    async def mark_leg(
        self, job: Job, result: ProcessingResult, message_id: str, legs: frozenset[Leg]
    ) -> None:
        """Keep what has been done about a failed result."""
        ...

    async def mark_done(self, job: Job, result: ProcessingResult, message_id: str) -> None:
        """Keep that the result was delivered."""
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
        """Return what was recorded; a record of a photo that was replaced since is not this job's."""
        failed, record, attempts = await asyncio.gather(
            *(self._read(job, ending) for ending in ("failed", "json", "attempts"))
        )
        if failed is not None and failed.info.metadata.get(_MESSAGE) == message_id:
            # Our own giving-up was cut short; another message's failure is no reason not to run.
            metadata = failed.info.metadata
            return Entry(
                job,
                _result(failed, job),
                metadata.get(_DONE) == "1",
                was_recorded=record is not None,
                legs=frozenset(Leg(leg) for leg in metadata.get(_LEGS, "").split(",") if leg),
            )
        if record is None:
            return Entry(job, attempts=_attempts(attempts))
        result = _result(record, job)
        if (
            record.info.metadata.get(_MESSAGE) == message_id
            or result.image_generation is None
            or await self._is_current(job, result)
        ):
            # Asked last: of most jobs nothing is recorded, and each question is a request that waits.
            done = await self._read(job, "done")
            return Entry(job, result, done is not None, attempts=_attempts(attempts))
        current = await self._store.stat(job.source.bucket, job.source.name)
        renewed = replace(job, result_id=of_generation(job.result_id, current.generation))
        return await self.look_up(renewed, message_id)

    async def record(self, job: Job, result: ProcessingResult, message_id: str) -> ProcessingResult:
        """Write the result once: the commit point of the expensive work."""
        data, metadata = result.model_dump_json().encode(), {_MESSAGE: message_id}
        if result.status == "failed":
            await self._write(job, "failed", data, metadata)
            await self.forget_attempts(job)  # they are used up; a replay has its own
            return result
        try:
            await self._write(job, "json", data, metadata, only_if_new=True)
        except PreconditionFailed:
            earlier = await self._read(job, "json")
            if earlier is not None:
                return _result(earlier, job)
            raise
        return result

    async def mark_leg(
        self, job: Job, result: ProcessingResult, message_id: str, legs: frozenset[Leg]
    ) -> None:
        """Write the failed result again, with what has been done."""
        metadata = {_MESSAGE: message_id, _LEGS: ",".join(sorted(legs))}
        await self._write(job, "failed", result.model_dump_json().encode(), metadata)

    async def mark_done(self, job: Job, result: ProcessingResult, message_id: str) -> None:
        """Write the marker; a failed result carries its own."""
        if result.status == "failed":
            metadata = {_MESSAGE: message_id, _DONE: "1"}
            await self._write(job, "failed", result.model_dump_json().encode(), metadata)
            return
        try:
            await self._write(job, "done", b"", {_MESSAGE: message_id}, only_if_new=True)
        except PreconditionFailed:
            return  # somebody marked it already

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


_REMEMBERED = 10_000
"""Jobs whose failed attempts a process without a ledger remembers."""


class NoLedger:
    """`LEDGER=off`: nothing is remembered, so a redelivery runs again."""

    def __init__(self, store: ObjectStore, bucket: str) -> None:
        self._store = store
        self._bucket = bucket
        self._attempts: dict[str, Attempts] = {}

    async def look_up(self, job: Job, message_id: str) -> Entry:
        """Return that nothing is known."""
        del message_id
        return Entry(job, attempts=self._attempts.get(job.result_id, Attempts()))

    async def record(self, job: Job, result: ProcessingResult, message_id: str) -> ProcessingResult:
        """Keep nothing."""
        del job, message_id
        return result

    async def mark_leg(
        self, job: Job, result: ProcessingResult, message_id: str, legs: frozenset[Leg]
    ) -> None:
        """Keep nothing."""

    async def mark_done(self, job: Job, result: ProcessingResult, message_id: str) -> None:
        """Keep nothing."""
        del result, message_id
        await self.forget_attempts(job)

    async def count_attempt(self, job: Job, code: str) -> Attempts:
        """Count in this process only."""
        attempts = Attempts(self._attempts.get(job.result_id, Attempts()).count + 1, code)
        self._attempts[job.result_id] = attempts
        if len(self._attempts) > _REMEMBERED:
            del self._attempts[next(iter(self._attempts))]  # the oldest: another worker may have ended it
        return attempts

    async def forget_attempts(self, job: Job) -> None:
        """Forget them."""
        self._attempts.pop(job.result_id, None)

    async def claim(self, job: Job, result: ProcessingResult) -> str:
        """Write the result, for its readers only."""
        name = object_name(job, "json")
        await self._store.write(
            self._bucket, name, result.model_dump_json().encode(), content_type="application/json"
        )
        return f"gs://{self._bucket}/{name}"


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
        result = ProcessingResult.model_validate_json(stored.data)
    except ValidationError as error:
        raise CorruptRecord(f"{where} is no result; delete it and replay the message: {error}") from error
    if (result.tenant_id, result.result_id) != (job.ids.tenant_id, job.result_id):
        raise CorruptRecord(f"{where} holds another job's result; delete it and replay the message")
    return result
