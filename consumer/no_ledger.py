"""`LEDGER=off`: nothing is kept but what one process remembers."""

from __future__ import annotations

from consumer.jobs import Job
from consumer.ledger import Attempts, Entry, GivenUp, object_name
from consumer.storage import ObjectStore
from contracts.result import ProcessingResult

_REMEMBERED = 10_000
"""Jobs whose failed attempts a process without a ledger remembers."""


class NoLedger:
    """A ledger that remembers nothing, so a redelivery runs again."""

    def __init__(self, store: ObjectStore, bucket: str) -> None:
        self._store = store
        self._bucket = bucket
        self._attempts: dict[str, Attempts] = {}

    async def look_up(self, job: Job, message_id: str) -> Entry:
        """Return that nothing is known."""
        del message_id
        return Entry(job, attempts=self._attempts.get(job.result_id, Attempts()))

    async def recorded(self, job: Job, message_id: str) -> Entry:
        """Return that nothing was recorded."""
        del message_id
        return Entry(job)

    async def record(self, job: Job, result: ProcessingResult, message_id: str) -> ProcessingResult:
        """Keep nothing."""
        del job, message_id
        return result

    async def given_up(self, job: Job, message_id: str) -> GivenUp | None:
        """Return that nothing is known."""
        del job, message_id
        return None

    async def keep_given_up(self, job: Job, given_up: GivenUp, message_id: str) -> None:
        """Keep nothing."""

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
        await self._store.write(self._bucket, name, result.as_json, content_type="application/json")
        return f"gs://{self._bucket}/{name}"
