"""How dead letters are shown, to people and to machines.

Nothing of a letter is read as markup or obeyed by the terminal: it is a stranger's text.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypedDict

import orjson
from pydantic import JsonValue
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumer.dead_letters.backlog import Backlog
from consumer.dead_letters.browsing import Ended, Gathered
from consumer.dead_letters.envelope import DeadLetter, Envelope, Subject, body_of, subject_of
from consumer.terminal import console, printable

_SHOWN_BYTES: Final = 100_000
_SHOWN_CHARACTERS: Final = 300
_MOST_ROWS: Final = 20


LetterJson = TypedDict(
    "LetterJson",
    {
        "id": str,
        "envelope": Envelope,
        "code": str,
        "class": str | None,
        "message": str,
        "step": str | None,
        "attempts": int | None,
        "replays": int,
        "failed_at": datetime,
        "tenant": str | None,
        "photo": str | None,
        "result_id": str | None,
        "source_subscription": str | None,
        "source_message_id": str | None,
        "source_publish_time": datetime | None,
        "publish_time": datetime,
        "worker_version": str | None,
        "trace_id": str | None,
        "claim_check": str | None,
        "unreadable": str | None,
    },
)
"""A letter without its body."""


class WholeLetterJson(LetterJson):
    """A letter with the body and attributes a replay would have."""

    attributes: dict[str, str] | None
    body: JsonValue
    body_base64: str | None


class SeenJson(TypedDict):
    """How much was looked through."""

    seen: int
    saw_all: bool
    ended: Ended
    backlog: int | None
    backlog_note: str
    matching: int
    unjudged: list[str]


def say(words: str) -> None:
    """Write a line to stdout, without breaking it."""
    console().print(words, markup=False, soft_wrap=True)


def subject(letter: DeadLetter) -> Subject:
    """Return what the letter is about, as far as it can be read."""
    return subject_of(letter.original) if letter.original else Subject()


def as_json(letter: DeadLetter) -> LetterJson:
    """Return a letter without its body."""
    about = subject(letter)
    return {
        "id": letter.id,
        "envelope": letter.envelope,
        "code": letter.code,
        "class": letter.failure_class,
        "message": letter.message,
        "step": letter.step_path,
        "attempts": letter.attempts,
        "replays": letter.replay_count,
        "failed_at": letter.failed_at,
        "tenant": about.tenant,
        "photo": about.photo,
        "result_id": letter.result_id,
        "source_subscription": letter.source_subscription,
        "source_message_id": letter.source_message_id,
        "source_publish_time": letter.source_publish_time,
        "publish_time": letter.delivery.publish_time,
        "worker_version": letter.worker_version,
        "trace_id": letter.trace_id,
        "claim_check": letter.claim_check,
        "unreadable": letter.unreadable or None,
    }


def whole_as_json(letter: DeadLetter, sent: bytes) -> WholeLetterJson:
    """Return a letter with the body and attributes a replay would have."""
    body = body_of(sent)
    return {
        **as_json(letter),
        "attributes": dict(letter.original.attributes) if letter.original else None,
        "body": body,
        "body_base64": None if body is not None else base64.b64encode(sent).decode(),
    }


def seen_as_json(found: Gathered, backlog: Backlog) -> SeenJson:
    """Return how much was looked through."""
    return {
        "seen": found.seen,
        "saw_all": found.saw_all,
        "ended": found.ended,
        "backlog": backlog.count,
        "backlog_note": backlog.note,
        "matching": len(found.letters),
        "unjudged": [letter.id for letter in found.unjudged],
    }


def seen_in_words(found: Gathered, backlog: Backlog) -> str:
    """Say how much was looked through, and no more than is known."""
    words = f"{len(found.letters)} of {found.seen} dead letters seen match"
    if found.ended is Ended.LIMIT:
        words += "; there may be more: it stopped at --limit"
    elif found.ended is Ended.FULL:
        words += "; there are at least as many: no more are held at a time, settle these and look again"
    if backlog.count is None:
        return f"{words}; backlog unknown ({backlog.note})"
    return f"{words}; backlog {backlog.count} ({backlog.note})"


def print_letters(out: Console, letters: Sequence[DeadLetter]) -> None:
    """Print the letters, each with its reason below it."""
    table = Table.grid(padding=(0, 2))
    for _ in ("id", "age", "tenant"):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    now = datetime.now(UTC)
    for letter in letters:
        what = Text(printable(letter.code), "bold")
        for trait in (letter.failure_class, letter.step_path, _times(letter.attempts, "try", "tries")):
            what.append(f"  {printable(trait)}" if trait else "", "not bold")
        if letter.replay_count:
            what.append(f"  {_times(letter.replay_count, 'replay', 'replays')}", "not bold yellow")
        what.append(f"\n{printable(letter.message[:_SHOWN_CHARACTERS])}", "not bold dim")
        tenant = Text(printable(subject(letter).tenant or "-"))
        table.add_row(Text(printable(letter.id)), Text(age(now - letter.failed_at), "dim"), tenant, what)
    out.print(table)


def print_letter(out: Console, letter: DeadLetter, sent: bytes) -> None:
    """Print one letter in full."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in as_json(letter).items():
        if value is not None:
            shown = value.isoformat() if isinstance(value, datetime) else str(value)
            grid.add_row(Text(name, "dim"), Text(printable(shown)))
    for name, text in sorted((letter.original.attributes if letter.original else {}).items()):
        grid.add_row(Text(f"attribute {printable(name)}", "dim"), Text(printable(text)))
    out.print(grid)
    out.print(Text(f"\nbody, {len(sent)} bytes", "bold"))
    body = body_of(sent)
    text = (
        orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()
        if body is not None
        else sent[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
    )
    for line in text[:_SHOWN_BYTES].splitlines():
        out.print(Text(printable(line)), soft_wrap=True)
    if len(text) > _SHOWN_BYTES or len(sent) > _SHOWN_BYTES:
        out.print(Text(f"(the first {_SHOWN_BYTES} bytes; --body writes all)", "dim"))


def stats_of(letters: Iterable[DeadLetter]) -> dict[str, dict[str, int]]:
    """Count the letters by each of their traits, most frequent first."""
    counts: Mapping[str, Counter[str]] = {
        name: Counter()
        for name in ("code", "class", "step", "tenant", "source", "envelope", "replays", "age")
    }
    now = datetime.now(UTC)
    for letter in letters:
        counts["code"][letter.code] += 1
        counts["class"][letter.failure_class or "-"] += 1
        counts["step"][letter.step_path or "-"] += 1
        counts["tenant"][subject(letter).tenant or "-"] += 1
        counts["source"][letter.source_subscription or "-"] += 1
        counts["envelope"][letter.envelope] += 1
        counts["replays"][str(letter.replay_count)] += 1
        counts["age"][_age_group(now - letter.failed_at)] += 1
    return {name: dict(counter.most_common()) for name, counter in counts.items()}


def print_stats(out: Console, stats: Mapping[str, Mapping[str, int]]) -> None:
    """Print the counts, a trait after the other."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for name, counter in stats.items():
        shown = list(counter.items())[:_MOST_ROWS]
        for i, (value, count) in enumerate(shown):
            table.add_row(Text(name if i == 0 else "", "bold"), str(count), Text(printable(value)))
        if len(counter) > len(shown):
            table.add_row("", "", Text(f"and {len(counter) - len(shown)} more", "dim"))
    out.print(table)


def age(span: timedelta) -> str:
    """Return a time span as people say it, in its largest unit.

    >>> age(timedelta(hours=30))
    '30h'
    """
    seconds = max(0, round(span.total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _times(count: int | None, one: str, many: str) -> str:
    return "" if count is None else f"{count} {one if count == 1 else many}"


def _age_group(span: timedelta) -> str:
    for limit, words in ((1, "under an hour"), (24, "under a day"), (7 * 24, "under a week")):
        if span < timedelta(hours=limit):
            return words
    return "a week or more"
