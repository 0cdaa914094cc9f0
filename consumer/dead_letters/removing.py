"""What `discard` and `export` do, from the first look to the summary."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from consumer.bars import bar
from consumer.dead_letters.archive import archived, new_archive, write_letter
from consumer.dead_letters.audit import Action, Audit
from consumer.dead_letters.browsing import Gathered
from consumer.dead_letters.confirming import confirmed
from consumer.dead_letters.desk import Desk, Search, open_desk
from consumer.dead_letters.ending import Interrupted
from consumer.dead_letters.envelope import DeadLetter
from consumer.dead_letters.looking import gathered
from consumer.dead_letters.settling import Settled, settle
from consumer.dead_letters.showing import as_json, print_letters
from consumer.dead_letters.stored import Unreadable
from consumer.terminal import BAD_INPUT, DONE, FAILED, INTERRUPTED, complain, console, print_json

_SHOWN = 20


async def discard_letters(
    search: Search, audit_file: Path, *, yes: bool, dry_run: bool, json_output: bool
) -> int:
    """Ack what is found, after a person said so, and return the exit code."""
    if not yes and not dry_run and not sys.stdin.isatty():
        complain("", "discard asks first, and stdin is no terminal: say --yes", "red")
        return BAD_INPUT
    with Audit(audit_file) as audit:
        async with open_desk(search) as desk:
            found = await gathered(desk, search)
            settled = Settled()
            if found.letters and not dry_run:
                if not yes and not await _wanted(desk, found.letters):
                    return INTERRUPTED if desk.stop.interrupted else FAILED
                settled = await _settled(desk, "discard", found.letters, audit, {})
    if json_output:
        _print_json(found, settled, desk, {"dry_run": dry_run, "discarded": settled.acked})
    elif dry_run:
        if found.letters:
            print_letters(console(), found.letters)
        _say(f"would discard {len(found.letters)} of {found.seen} seen")
    else:
        _say(f"discarded {len(settled.acked)} of {len(found.letters)} that match, {found.seen} seen")
    return _code(desk, found, settled)


async def export_letters(
    search: Search, file: Path, audit_file: Path, *, remove: bool, json_output: bool
) -> int:
    """Write what is found to a new file, ack it if wanted, and return the exit code.

    Raises:
        InvalidArchive: the file cannot be written.
    """
    with Audit(audit_file) as audit:
        async with open_desk(search) as desk:
            found = await gathered(desk, search)
            incomplete = await _write(desk, found.letters, file)
            settled = Settled()
            if remove:
                whole = [letter for letter in found.letters if letter.id not in incomplete]
                settled = await _settled(desk, "export", whole, audit, {"file": str(file)})
    for name, why in incomplete.items():
        complain(f"kept {name}", f"exported without its original: {why}", "yellow")
    if json_output:
        more = {"file": str(file), "exported": len(found.letters), "removed": settled.acked}
        _print_json(found, settled, desk, {**more, "incomplete": list(incomplete)})
    else:
        removed = f", removed {len(settled.acked)}" if remove else ""
        _say(f"exported {len(found.letters)} of {found.seen} seen to {file}{removed}")
    return FAILED if incomplete and not desk.stop.interrupted else _code(desk, found, settled)


async def _write(desk: Desk, letters: Sequence[DeadLetter], file: Path) -> Mapping[str, str]:
    """Write the letters, and return those whose original could not be had, and why."""
    incomplete: dict[str, str] = {}
    with new_archive(file) as output, bar("exported", len(letters)) as show:
        for i, letter in enumerate(letters, start=1):
            stored = None
            if letter.claim_check is not None:
                try:
                    stored = await desk.originals.read(letter.claim_check)
                except Unreadable as error:
                    incomplete[letter.id] = str(error)
            write_letter(output, archived(letter, desk.subscription, stored))
            show(i)
            await asyncio.sleep(0)  # renewals and Ctrl-C
            if desk.stop:
                raise Interrupted
    return incomplete


async def _wanted(desk: Desk, letters: Sequence[DeadLetter]) -> bool:
    print_letters(console(stderr=True), letters[:_SHOWN])
    more = f" (the first {_SHOWN} are shown)" if len(letters) > _SHOWN else ""
    return await confirmed(f"Discard {len(letters)} dead letters for good?{more}", desk.stop)


async def _settled(
    desk: Desk, action: Action, letters: Sequence[DeadLetter], audit: Audit, details: Mapping[str, Any]
) -> Settled:
    acked = 0

    with bar("acked", len(letters)) as show:

        def one_more() -> None:
            nonlocal acked
            acked += 1
            show(acked)

        settled = await settle(
            letters,
            action,
            subscription=desk.subscription,
            holding=desk.holding,
            audit=audit,
            stop=desk.stop,
            details=details,
            on_done=one_more,
        )
    for message_id in settled.unacked:
        complain(f"not acked {message_id}", "it may come again", "yellow")
    if settled.trouble:
        complain("stopped", settled.trouble, "red")
    return settled


def _code(desk: Desk, found: Gathered, settled: Settled) -> int:
    if desk.stop.interrupted:
        return INTERRUPTED
    return FAILED if settled.trouble or settled.unacked or found.unjudged else DONE


def _print_json(found: Gathered, settled: Settled, desk: Desk, more: Mapping[str, Any]) -> None:
    print_json(
        {
            "seen": found.seen,
            "saw_all": found.saw_all,
            "matching": len(found.letters),
            **more,
            "unacked": settled.unacked,
            "unjudged": [letter.id for letter in found.unjudged],
            "interrupted": desk.stop.interrupted,
            "trouble": settled.trouble or None,
            "dead_letters": [as_json(letter) for letter in found.letters],
        }
    )


def _say(words: str) -> None:
    console().print(words, markup=False, soft_wrap=True)
