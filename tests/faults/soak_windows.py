"""The judge of repeats: whatever was said twice has a reason, and the reason has evidence.

A callback is said again in the three windows of docs/reliability.md only. Results and dead letters are
published at least once: a worker that lost its lease between two legs leaves the first of them to be said
again. No fault excuses anybody it did not hit: what counts is which worker had the job's claim, and what
happened to that worker, to that very answer, claim or lease, before the mark was there.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

CALL_SECONDS = 3.0
"""A call's limit, 2 s, and a moment: within it a worker that wakes up says what it was about to say."""
PUBLISH_SECONDS = 60.0
"""One look at the lease stands before a publish, which is tried for so long."""
CLAIM_SECONDS = 2.0
"""A claim that is not renewed for so long is taken over."""


class Leg(StrEnum):
    """What is said."""

    RESULT = "result"
    CALLBACK = "callback"
    LETTER = "dead letter"


class Why(StrEnum):
    """What excuses saying it again."""

    UNHEARD = "an answer that never came"
    LOST = "a worker lost before its mark"
    STOOD_STILL = "a worker that stood still"
    UNMARKED = "a mark refused until the claim was lost"
    LEASE = "a lease lost before the next leg"


@dataclass(frozen=True)
class Said:
    """One result, callback or dead letter that arrived."""

    leg: Leg
    key: str
    """By which a reader knows it again."""
    job: str
    """Its `result_id`; empty if the message could not be understood."""
    at: float
    was_heard: bool = True
    """Whether the answer reached whoever said it."""


@dataclass(frozen=True)
class Held:
    """A claim that was written: a worker had the job at that moment."""

    pid: int
    message_id: str
    at: float


@dataclass(frozen=True)
class Blow:
    """What happened to one worker, or to all."""

    why: Why
    pid: int | None
    start: float
    end: float = math.inf


@dataclass(frozen=True)
class Account:
    """What was said, and all that might excuse saying it again."""

    said: Sequence[Said]
    held: Mapping[str, Sequence[Held]]
    """The claims on each job, oldest first."""
    marked: Mapping[tuple[Leg, str], float]
    """When a job's leg was first marked as done."""
    blows: Sequence[Blow]
    refused: Mapping[str, Sequence[float]]
    """When the bucket refused to write something about a job."""
    expired: Mapping[str, Sequence[float]]
    """When a fault ended a message's lease."""

    def repeats(self) -> Iterator[tuple[Said, Said, Why | None]]:
        """Yield each thing that was said again, what it repeats, and why."""
        same: dict[tuple[Leg, str], list[Said]] = defaultdict(list)
        for said in sorted(self.said, key=lambda said: said.at):
            same[said.leg, said.key].append(said)
        for each in same.values():
            for first, again in pairwise(each):
                yield first, again, self.why(first, again)

    def counts(self) -> Counter[tuple[Leg, Why]]:
        """How often what was said again for which reason."""
        return Counter((again.leg, why) for _, again, why in self.repeats() if why is not None)

    def unexplained(self) -> Iterator[str]:
        """Say of each repeat without a reason what it was."""
        for first, again, why in self.repeats():
            if why is None:
                messages = ", ".join(sorted(self._messages(first, again))) or "unknown"
                mark = self.marked.get((first.leg, first.job))
                marked = "never marked" if mark is None else f"marked {mark - first.at:.2f} s after the first"
                yield (
                    f"{first.leg} {first.key} of message {messages}, first said by process "
                    f"{self._teller(first)}, was said again {again.at - first.at:.2f} s later without a "
                    f"reason; it was {marked}"
                )

    def why(self, first: Said, again: Said) -> Why | None:
        """Return what excuses `again`; None if nothing does."""
        if not first.was_heard:
            return Why.UNHEARD
        for blow in self.blows:
            if self._hit_before_the_mark(blow, first, again) or self._woke_up_to_say_it(blow, first, again):
                return blow.why
        if self._claim_was_lost_to_a_refusal(first, again):
            return Why.UNMARKED
        # Not of a callback: what is said last needs nothing of the lease any more but the ack.
        if first.leg is not Leg.CALLBACK and self._lease_was_lost(first, again):
            return Why.LEASE
        return None

    def _hit_before_the_mark(self, blow: Blow, first: Said, again: Said) -> bool:
        teller = self._teller(first)
        hit = teller is None or blow.pid in (None, teller)
        return hit and blow.start <= again.at and blow.end >= first.at and self._mark(first) >= blow.start

    def _woke_up_to_say_it(self, blow: Blow, first: Said, again: Said) -> bool:
        """Frozen between fence and call, while another had the job: either of the two may have come first."""
        if blow.why is not Why.STOOD_STILL or blow.start > first.at:
            return False
        had = self._had(first, again)
        took_part = len(had) > 1 and (blow.pid is None or blow.pid in had)
        return took_part and any(0 <= said.at - blow.end <= CALL_SECONDS for said in (first, again))

    def _claim_was_lost_to_a_refusal(self, first: Said, again: Said) -> bool:
        taken = [it.at for it in self._between(first, again) if it.pid != self._teller(first)]
        refused = self.refused.get(first.job, ())
        return any(
            first.at - CLAIM_SECONDS <= at <= taken[0] and self._mark(first) > at for at in refused if taken
        )

    def _lease_was_lost(self, first: Said, again: Said) -> bool:
        lost = (at for message in self._messages(first, again) for at in self.expired.get(message, ()))
        return self._mark(first) >= again.at and any(
            first.at - PUBLISH_SECONDS <= at <= again.at for at in lost
        )

    def _mark(self, said: Said) -> float:
        return self.marked.get((said.leg, said.job), math.inf)

    def _teller(self, said: Said) -> int | None:
        """Whose the job was when it was said; None for a message that is no job, and so has no claim."""
        return next((it.pid for it in reversed(self.held.get(said.job, ())) if it.at <= said.at), None)

    def _had(self, first: Said, again: Said) -> set[int]:
        return {it.pid for it in self.held.get(first.job, ()) if it.at <= again.at}

    def _between(self, first: Said, again: Said) -> list[Held]:
        return [it for it in self.held.get(first.job, ()) if first.at < it.at <= again.at]

    def _messages(self, first: Said, again: Said) -> set[str]:
        had = {it.message_id for it in self.held.get(first.job, ()) if it.at <= again.at}
        return had | ({first.key} if first.leg is Leg.LETTER else set())
