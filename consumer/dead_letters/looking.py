"""What `list`, `stats` and `show` do: look through the subscription, hand everything back, show."""

from __future__ import annotations

import sys

from consumer.bars import bar
from consumer.dead_letters.backlog import Backlog, backlog_of
from consumer.dead_letters.browsing import Ended, Gathered
from consumer.dead_letters.desk import Desk, Interrupted, Search, open_desk
from consumer.dead_letters.patching import NotPatchable, Patch
from consumer.dead_letters.showing import (
    as_json,
    print_letter,
    print_letters,
    print_stats,
    say,
    seen_as_json,
    seen_in_words,
    stats_of,
    whole_as_json,
)
from consumer.terminal import DONE, FAILED, complain, console, print_json


async def show_list(search: Search, *, json_output: bool) -> int:
    """List letters, and return the exit code."""
    found, backlog = await _looked_through(search)
    if json_output:
        letters = [as_json(letter) for letter in found.letters]
        print_json({**seen_as_json(found, backlog), "dead_letters": letters})
    else:
        if found.letters:
            print_letters(console(), found.letters)
        say(seen_in_words(found, backlog))
    return DONE


async def show_stats(search: Search, *, json_output: bool) -> int:
    """Count letters, and return the exit code."""
    found, backlog = await _looked_through(search)
    stats = stats_of(found.letters)
    if json_output:
        print_json({**seen_as_json(found, backlog), "stats": stats})
    else:
        if found.letters:
            print_stats(console(), stats)
        say(seen_in_words(found, backlog))
    return DONE


async def show_one(search: Search, patch: Patch | None, *, body_only: bool, json_output: bool) -> int:
    """Show the letter that is looked for by its id, and return the exit code."""
    async with open_desk(search) as desk:
        found = await gathered(desk, search)
    if not found.letters:
        what = ", ".join(search.filters.ids)
        complain("not found", f"{what}, among {found.seen} seen in {desk.subscription}", "red")
        return FAILED
    [letter] = found.letters
    sent = b""
    if letter.original is None:
        complain("body", letter.unreadable, "yellow")
    else:
        try:
            sent = patch.applied_to(letter.original) if patch else letter.original.data
        except NotPatchable as error:
            complain("patch", str(error), "red")
            return FAILED
    if body_only:
        sys.stdout.buffer.write(sent)
        sys.stdout.buffer.flush()
    elif json_output:
        print_json(whole_as_json(letter, sent))
    else:
        print_letter(console(), letter, sent)
    return FAILED if letter.original is None else DONE


async def gathered(desk: Desk, search: Search) -> Gathered:
    """Look through the subscription and hold what was found; what could not be judged is told.

    Raises:
        Interrupted: a person stopped it.
        BrokerError: it cannot be looked through.
    """
    with bar("dead letters seen", None) as show:
        found = await desk.browser.gather(search.filters, search.limit, show)
    if found.ended is Ended.INTERRUPTED:
        raise Interrupted
    for letter in found.unjudged:
        complain(f"kept {letter.id}", f"whether it is meant cannot be told: {letter.unreadable}", "yellow")
    if found.ended is Ended.FULL:
        complain("warning", "no more are held at a time, and there may be others: run it again", "yellow")
    return found


async def _looked_through(search: Search) -> tuple[Gathered, Backlog]:
    async with open_desk(search) as desk:
        found = await gathered(desk, search)
        return found, await backlog_of(desk.subscription, emulator=search.place.emulator is not None)
