"""What `replay` does, from the first look to the summary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from consumer.bars import bar
from consumer.broker.publisher import PubSubPublisher
from consumer.dead_letters.audit import Audit
from consumer.dead_letters.browsing import Gathered
from consumer.dead_letters.desk import Desk, Place, Search, open_desk
from consumer.dead_letters.looking import gathered
from consumer.dead_letters.patching import Patch
from consumer.dead_letters.replay import Plan, Replayer, Tally, plan
from consumer.dead_letters.showing import print_letters, say
from consumer.dead_letters.targets import NobodyListens, Target, Targets
from consumer.sending import Pace
from consumer.settings import full_name
from consumer.terminal import BAD_INPUT, DONE, FAILED, INTERRUPTED, complain, console, print_json

_MARGIN = 10.0


@dataclass(frozen=True, slots=True)
class HowToReplay:
    """What a person wants done with the letters that are found."""

    to: str | None
    """A topic for all, short or full name; None: that of each letter's source subscription."""
    patch: Patch | None
    rate: float | None
    max_replays: int
    audit: Path
    dry_run: bool
    json_output: bool


async def replay_letters(search: Search, how: HowToReplay) -> int:
    """Replay what is found, and return the exit code."""
    with Audit(how.audit) as audit:
        async with open_desk(search) as desk:
            found = await gathered(desk, search)
            decided = await _decided(desk, search.place, found, how, audit)
            tally = Tally(kept=list(decided.kept))
            if not how.dry_run:
                await _carry_out(desk, search.place, decided, how, audit, tally)
    _report(desk, found, decided, tally, how)
    if desk.stop.interrupted:
        return INTERRUPTED
    if tally.trouble:
        return BAD_INPUT if tally.needs_operator else FAILED
    return FAILED if tally.kept or tally.unacked or found.left_some_out else DONE


async def _decided(desk: Desk, place: Place, found: Gathered, how: HowToReplay, audit: Audit) -> Plan:
    targets = Targets(place.project, place.endpoint, place.budget)
    try:
        to = await targets.of_topic(full_name("topics", how.to, place.project)) if how.to else None
        sources = {letter.source_subscription for letter in found.letters if letter.source_subscription}
        by_source = {} if to else await targets.find(sources)
    finally:
        await targets.close()
    _warn_of_others([to] if to else by_source.values())
    return plan(
        found.letters,
        by_source,
        to=to,
        patch=how.patch,
        max_replays=how.max_replays,
        done=lambda letter: audit.done("replay", desk.subscription, letter.id, letter.delivery.publish_time),
    )


async def _carry_out(
    desk: Desk, place: Place, decided: Plan, how: HowToReplay, audit: Audit, tally: Tally
) -> None:
    publisher = PubSubPublisher(place.project, place.endpoint, place.budget)
    try:
        with bar("replayed", len(decided.replays)) as show:
            replayer = Replayer(
                publisher,
                desk.holding,
                audit,
                desk.subscription,
                how.patch.digest if how.patch else None,
                fence=place.timeout + _MARGIN,
                stop=desk.stop,
                tally=tally,
                on_done=lambda: show(tally.begun),
            )
            await replayer.run(decided.replays, Pace(how.rate))
    finally:
        await publisher.close()


def _warn_of_others(targets: Iterable[Target | NobodyListens]) -> None:
    for target in targets:
        if isinstance(target, Target) and target.others:
            complain(
                "warning",
                f"{', '.join(target.others)} also listen to {target.topic} and get every replay too, unless "
                'their filter is NOT attributes:"mlworker-replay-for"',
                "yellow",
            )
        elif isinstance(target, Target) and target.unsure:
            complain("warning", target.unsure, "yellow")


def _report(desk: Desk, found: Gathered, decided: Plan, tally: Tally, how: HowToReplay) -> None:
    for kept in tally.kept:
        complain(f"kept {kept.letter.id}", kept.why, "yellow")
    for message_id in tally.unacked:
        complain(
            f"not acked {message_id}",
            "it was replayed; run again with this audit log, and it is only acked",
            "yellow",
        )
    if tally.trouble:
        complain("stopped", tally.trouble, "red")
    topics = {planned.letter.id: planned.target.topic for planned in decided.replays}
    not_begun = len(decided.replays) - tally.begun
    if how.json_output:
        print_json(
            {
                "seen": found.seen,
                "saw_all": found.saw_all,
                "matching": len(found.letters),
                "dry_run": how.dry_run,
                "would_replay": [
                    {
                        "id": planned.letter.id,
                        "topic": planned.target.topic or None,
                        "replay_count": planned.letter.replay_count + 1,
                        "only_ack": planned.already is not None,
                    }
                    for planned in (decided.replays if how.dry_run else ())
                ],
                "replayed": [
                    {"id": name, "published_as": published_as, "topic": topics[name]}
                    for name, published_as in tally.replayed.items()
                ],
                "acked_only": tally.acked_only,
                "kept": [{"id": kept.letter.id, "why": kept.why} for kept in tally.kept],
                "unacked": tally.unacked,
                "not_begun": 0 if how.dry_run else not_begun,
                "unjudged": [letter.id for letter in found.unjudged],
                "interrupted": desk.stop.interrupted,
                "trouble": tally.trouble or None,
            }
        )
    elif how.dry_run:
        if decided.replays:
            print_letters(console(), [planned.letter for planned in decided.replays])
        goals = sorted({planned.target.topic for planned in decided.replays} - {""})
        where = f" to {', '.join(goals)}" if goals else ""
        say(f"would replay {len(decided.replays)} of {found.seen} seen{where}")
    else:
        say(_in_words(found, tally, not_begun))


def _in_words(found: Gathered, tally: Tally, not_begun: int) -> str:
    words = f"replayed {len(tally.replayed)} of {len(found.letters)} that match, {found.seen} seen"
    if tally.acked_only:
        words += f"; {tally.acked_only} had been replayed before and are acked now"
    if tally.kept:
        words += f"; kept {len(tally.kept)}"
    if not_begun:
        words += f"; {not_begun} were not begun and are handed back"
    if not found.saw_all:
        words += "; there may be more"
    return words
