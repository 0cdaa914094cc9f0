"""Replaying: publish, wait for the broker's word, note it, and only then ack the dead letter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from consumer.broker import BrokerError, BrokerMisconfigured, LeaseLost, MessageTooLarge, Publisher
from consumer.dead_letters.audit import Audit, AuditFailed, Entry
from consumer.dead_letters.envelope import DeadLetter, replay_attributes
from consumer.dead_letters.holding import Holding
from consumer.dead_letters.patching import NotPatchable, Patch
from consumer.dead_letters.targets import NobodyListens, Target
from consumer.interrupt import Stop
from consumer.sending import Pace, start_each


@dataclass(frozen=True, slots=True)
class Planned:
    """One replay, ready to be published."""

    letter: DeadLetter
    data: bytes
    attributes: Mapping[str, str]
    target: Target
    already: str | None = None
    """The id it was published as by a run that was cut short before the ack: only the ack is missing."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A dead letter that stays where it is, and why."""

    letter: DeadLetter
    why: str


@dataclass
class Plan:
    """What would be done."""

    replays: list[Planned] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)


@dataclass
class Tally:
    """What was done."""

    begun: int = 0
    replayed: dict[str, str] = field(default_factory=dict)
    """Each dead letter's id, and the id its replay was published as."""
    acked_only: int = 0
    """Published by an earlier run, and acked now."""
    kept: list[Kept] = field(default_factory=list)
    unacked: list[str] = field(default_factory=list)
    """Done, but their ack was not confirmed: with the same audit log, another run only acks them."""
    trouble: str = ""
    """Why it ended early."""
    needs_operator: bool = False
    """Whether trying again is no use before somebody has changed something."""


def plan(
    letters: Sequence[DeadLetter],
    targets: Mapping[str, Target | NobodyListens],
    *,
    to: Target | None,
    patch: Patch | None,
    max_replays: int,
    done: Callable[[DeadLetter], str | None],
) -> Plan:
    """Decide what becomes of every letter; nothing is published yet.

    Args:
        letters: those that are meant.
        targets: where replays of each source subscription go.
        to: where all go instead.
        patch: what to change in each body.
        max_replays: how often a message may be replayed altogether.
        done: the id that a letter was published as by an earlier run, if it was.
    """

    def planned(letter: DeadLetter) -> Planned:
        if (already := done(letter)) is not None:
            return Planned(letter, b"", {}, Target("", None), already)
        if letter.original is None:
            raise NotPatchable(letter.unreadable)
        if letter.replay_count >= max_replays:
            raise NotPatchable(f"replayed {letter.replay_count} times already (--max-replays {max_replays})")
        target: Target | NobodyListens | None = to or targets.get(letter.source_subscription or "")
        if target is None:
            raise NobodyListens("it does not say which subscription it comes from: name a topic with --to")
        if isinstance(target, NobodyListens):
            raise target
        data = patch.applied_to(letter.original) if patch else letter.original.data
        attributes = replay_attributes(letter.original, letter.replay_count + 1, target.subscription)
        return Planned(letter, data, attributes, target)

    decided = Plan()
    for letter in letters:
        try:
            decided.replays.append(planned(letter))
        except (NotPatchable, NobodyListens) as error:
            decided.kept.append(Kept(letter, str(error)))
    return decided


@dataclass(frozen=True, slots=True)
class Replayer:
    """Carries a plan out."""

    publisher: Publisher
    holding: Holding
    audit: Audit
    subscription: str
    patch_digest: str | None
    fence: float
    """Seconds of lease that must be left before a replay is published: longer than publishing is tried."""
    stop: Stop
    tally: Tally
    on_done: Callable[[], None] = lambda: None

    async def run(self, replays: Sequence[Planned], pace: Pace) -> None:
        """Publish, note and ack each; what was begun is finished, whoever asks to stop.

        What fails is told by the tally; a broker that is away or misconfigured ends the run, since the next
        letter would fare no better.
        """

        async def each() -> AsyncIterator[Planned]:
            for planned in replays:
                yield planned

        await start_each(each(), self._replay, stop=self.stop, pace=pace)

    async def _replay(self, planned: Planned) -> None:
        self.tally.begun += 1
        if planned.already is None and not await self._published(planned):
            return
        try:
            await self.holding.acknowledge(planned.letter.id)
        except BrokerError as error:
            self.tally.unacked.append(planned.letter.id)
            if not isinstance(error, LeaseLost):
                self._end(str(error))
        else:
            self.tally.acked_only += planned.already is not None
        self.on_done()

    async def _published(self, planned: Planned) -> bool:
        letter = planned.letter
        if not self.holding.covers(letter.id, self.fence):
            self._keep(letter, "its lease was lost: somebody else may have it")
            return False
        try:
            published_as = await self.publisher.publish(
                planned.target.topic, planned.data, planned.attributes
            )
        except MessageTooLarge as error:
            self._keep(letter, f"too large to be published again: {error}")
            return False
        except BrokerMisconfigured as error:
            self._end(str(error), needs_operator=True)
            self._keep(letter, "not published")
            return False
        except BrokerError as error:
            self._end(str(error))
            self._keep(letter, "not confirmed: it may have been published all the same")
            return False
        self.tally.replayed[letter.id] = published_as
        try:
            self.audit.note(self._entry(planned, published_as))
        except AuditFailed as error:
            self._end(str(error))  # acked all the same: it was published, and must not be again
        return True

    def _entry(self, planned: Planned, published_as: str) -> Entry:
        letter = planned.letter
        return Entry(
            "replay",
            letter.id,
            letter.delivery.publish_time,
            self.subscription,
            published_as,
            planned.target.topic,
            {
                "source_message_id": letter.source_message_id,
                "result_id": letter.result_id,
                "code": letter.code,
                "replay_count": letter.replay_count + 1,
                "patch_sha256": self.patch_digest,
            },
        )

    def _keep(self, letter: DeadLetter, why: str) -> None:
        self.tally.kept.append(Kept(letter, why))

    def _end(self, why: str, *, needs_operator: bool = False) -> None:
        self.tally.trouble = self.tally.trouble or why
        self.tally.needs_operator = self.tally.needs_operator or needs_operator
        self.stop.ask()
