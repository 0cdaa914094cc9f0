"""What `discard` and `export` do, from the first look to the summary."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from consumer.bars import bar
from consumer.broker import BrokerError, LeaseLost
from consumer.dead_letters.archive import archived, new_archive, write_letter
from consumer.dead_letters.audit import Action, Audit, AuditFailed, Entry
from consumer.dead_letters.browsing import Gathered
from consumer.dead_letters.desk import Desk, Interrupted, Search, open_desk
from consumer.dead_letters.envelope import DeadLetter
from consumer.dead_letters.looking import gathered
from consumer.dead_letters.showing import as_json, print_letters, say
from consumer.dead_letters.stored import Unreadable
from consumer.interrupt import Stop
from consumer.sending import Pace, start_each
from consumer.terminal import BAD_INPUT, DONE, FAILED, INTERRUPTED, complain, console, print_json

_SHOWN = 20


@dataclass
class Settled:
    """What was done."""

    acked: list[str] = field(default_factory=list)
    unacked: list[str] = field(default_factory=list)
    """Noted, but their ack was not confirmed: they may come again."""
    trouble: str = ""
    """Why it ended early."""


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
        say(f"would discard {len(found.letters)} of {found.seen} seen")
    else:
        say(f"discarded {len(settled.acked)} of {len(found.letters)} that match, {found.seen} seen")
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
        say(f"exported {len(found.letters)} of {found.seen} seen to {file}{removed}")
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
    return await _confirmed(f"Discard {len(letters)} dead letters for good?{more}", desk.stop)


async def _confirmed(question: str, stop: Stop) -> bool:
    """Ask at the terminal; anything but `y` or `yes` means no, and so does Ctrl-C.

    Not by a thread that reads: one that waits for a line cannot be ended.
    """
    loop, typed = asyncio.get_running_loop(), asyncio.Event()
    console(stderr=True).print(f"{question} [y/N] ", end="", markup=False)
    file = sys.stdin.fileno()
    loop.add_reader(file, typed.set)
    try:
        while not typed.is_set():
            if await stop.within(0.1):
                return False
    finally:
        loop.remove_reader(file)
    answer = os.read(file, 1000).decode("utf-8", "replace")
    return answer.strip().lower() in ("y", "yes")


async def _settled(
    desk: Desk, action: Action, letters: Sequence[DeadLetter], audit: Audit, details: Mapping[str, str]
) -> Settled:
    """Note each letter and ack it; without the note it is not acked."""
    settled = Settled()

    async def each() -> AsyncIterator[DeadLetter]:
        for letter in letters:
            yield letter

    with bar("acked", len(letters)) as show:

        async def settle(letter: DeadLetter) -> None:
            about = {"source_message_id": letter.source_message_id, "code": letter.code, **details}
            try:
                audit.note(
                    Entry(action, letter.id, letter.delivery.publish_time, desk.subscription, details=about)
                )
                await desk.holding.acknowledge(letter.id)
            except LeaseLost:
                settled.unacked.append(letter.id)
            except (AuditFailed, BrokerError) as error:
                settled.trouble = settled.trouble or str(error)
                desk.stop.ask()
                if isinstance(error, BrokerError):
                    settled.unacked.append(letter.id)
            else:
                settled.acked.append(letter.id)
                show(len(settled.acked))

        await start_each(each(), settle, stop=desk.stop, pace=Pace(None))
    for message_id in settled.unacked:
        complain(f"not acked {message_id}", "it may come again", "yellow")
    if settled.trouble:
        complain("stopped", settled.trouble, "red")
    return settled


def _code(desk: Desk, found: Gathered, settled: Settled) -> int:
    if desk.stop.interrupted:
        return INTERRUPTED
    return FAILED if settled.trouble or settled.unacked or found.left_some_out else DONE


def _print_json(found: Gathered, settled: Settled, desk: Desk, more: Mapping[str, object]) -> None:
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
