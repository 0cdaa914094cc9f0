"""`mlworker dead-letters`: what is typed. What the commands do is imported when one of them is run."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from consumer.dead_letters.options import (
    AuditFile,
    Connection,
    DryRun,
    Json,
    Queue,
    Rate,
    Selection,
    in_groups,
    patch_of,
    require,
    search_of,
)
from consumer.help import examples
from consumer.terminal import BAD_INPUT, FAILED, INTERRUPTED, fail, run_to_end

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)

_LOOKED = "Exit codes: 0 done, 1 the broker is away, 2 bad input or configuration, 130 interrupted."
_EXITS = (
    "Exit codes: 0 all that match were done; 1 some were kept or not confirmed, each with its reason on "
    "stderr; 2 bad input or configuration; 130 interrupted: what was not done is still there."
)


@app.callback(
    epilog=examples(
        "export GOOGLE_CLOUD_PROJECT=nursery BUCKET=photos",
        "export DEAD_LETTER_SUBSCRIPTION=dead-letters",
        "mlworker dead-letters stats      what went wrong, and how often",
        "mlworker dead-letters list       which they are",
        "mlworker dead-letters replay     once the cause is mended",
        note="Looking holds the messages for as long as it takes, and hands them back. docs/dead-letters.md "
        "tells how to decide.",
    )
)
def dead_letters() -> None:
    """Look at what was given up, and replay or discard it."""


@app.command(
    "list",
    epilog=examples(
        "mlworker dead-letters list --since 2h",
        "mlworker dead-letters list --code invalid_pipeline --tenant acme --limit 20",
        "mlworker dead-letters list --step steps.1 --text 'out of memory' --json",
        note=_LOOKED,
    ),
)
@in_groups
def list_letters(
    *, selection: Selection, queue: Queue, connection: Connection, json_output: Json = False
) -> None:
    """List dead letters, the oldest death first."""
    search = search_of(selection, queue, connection)
    from consumer.dead_letters.looking import show_list

    finish(show_list(search, json_output=json_output))


@app.command(
    epilog=examples(
        "mlworker dead-letters stats",
        "mlworker dead-letters stats --tenant acme --since 1d --json",
        note=_LOOKED,
    )
)
@in_groups
def stats(*, selection: Selection, queue: Queue, connection: Connection, json_output: Json = False) -> None:
    """Count dead letters by reason, step, tenant, source and age."""
    search = search_of(selection, queue, connection)
    from consumer.dead_letters.looking import show_stats

    finish(show_stats(search, json_output=json_output))


@app.command(
    epilog=examples(
        "mlworker dead-letters show 1234567890",
        "mlworker dead-letters show 1234567890 --body > body.json",
        "mlworker dead-letters show 1234567890 --patch patch.json     as a replay would send it",
        note="Exit codes: 0 done, 1 not found or the broker is away, 2 bad input, 130 interrupted.",
    )
)
@in_groups
def show(
    *,
    letter: Annotated[
        str, typer.Argument(metavar="ID", help="Of the dead letter, the original message, or the result.")
    ],
    body: Annotated[bool, typer.Option("--body", help="Only the body, as it is.")] = False,
    patch: Annotated[Path | None, typer.Option(help="JSON merge patch to show the body after.")] = None,
    json_output: Json = False,
    queue: Queue,
    connection: Connection,
) -> None:
    """Show one dead letter in full: reason, attributes, body."""
    search = search_of(Selection(id=[letter], limit=1), queue, connection)
    changes = patch_of(patch)
    from consumer.dead_letters.looking import show_one

    finish(show_one(search, changes, body_only=body, json_output=json_output))


@app.command(
    epilog=examples(
        "mlworker dead-letters replay --code model_mismatch --limit 1      one first",
        "mlworker dead-letters replay --code model_mismatch --rate 20",
        "mlworker dead-letters replay --tenant acme --patch patch.json --dry-run",
        "mlworker dead-letters replay --id 1234567890 --to requests",
        note=f"A letter is acked only after the broker has confirmed its replay. {_EXITS}",
    )
)
@in_groups
def replay(
    *,
    selection: Selection,
    to: Annotated[
        str | None, typer.Option(help="Topic for all; without, that of each letter's own subscription.")
    ] = None,
    patch: Annotated[Path | None, typer.Option(help="JSON merge patch (RFC 7396) for the bodies.")] = None,
    rate: Rate = None,
    max_replays: Annotated[int, typer.Option(min=1, help="Keep what was replayed so often before.")] = 3,
    dry_run: DryRun = False,
    audit: AuditFile = "dead-letters-audit.jsonl",
    json_output: Json = False,
    queue: Queue,
    connection: Connection,
) -> None:
    """Publish dead letters again, and ack each once the broker has confirmed it."""
    search = search_of(selection, queue, connection)
    changes = patch_of(patch)
    from consumer.dead_letters.replaying import HowToReplay, replay_letters

    how = HowToReplay(to, changes, rate, max_replays, Path(audit), dry_run, json_output)
    finish(replay_letters(search, how))


@app.command(
    epilog=examples(
        "mlworker dead-letters discard --code malformed_message --until 7d",
        "mlworker dead-letters discard --id 1234567890 --yes",
        "mlworker dead-letters export old.jsonl --until 7d --remove      to keep a copy",
        note=_EXITS,
    )
)
@in_groups
def discard(
    *,
    selection: Selection,
    everything: Annotated[bool, typer.Option("--all", help="Without any filter: all there are.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: DryRun = False,
    audit: AuditFile = "dead-letters-audit.jsonl",
    json_output: Json = False,
    queue: Queue,
    connection: Connection,
) -> None:
    """Ack dead letters for good, after asking; the audit log keeps which they were."""
    search = search_of(selection, queue, connection)
    if search.filters.are_none and not everything:
        fail("which ones? name a filter, or --all", BAD_INPUT)
    from consumer.dead_letters.removing import discard_letters

    finish(discard_letters(search, Path(audit), yes=yes, dry_run=dry_run, json_output=json_output))


@app.command(
    epilog=examples(
        "mlworker dead-letters export today.jsonl --since 1d",
        "mlworker dead-letters export old.jsonl --until 20d --remove",
        note=f"One JSON object a line; a file that is there is never written over. {_EXITS}",
    )
)
@in_groups
def export(
    *,
    file: Annotated[Path, typer.Argument(help="A new file.")],
    selection: Selection,
    remove: Annotated[bool, typer.Option("--remove", help="Ack them once the file is on the disk.")] = False,
    audit: AuditFile = "dead-letters-audit.jsonl",
    json_output: Json = False,
    queue: Queue,
    connection: Connection,
) -> None:
    """Write dead letters to a file, whole enough to be imported again."""
    search = search_of(selection, queue, connection)
    from consumer.dead_letters.removing import export_letters

    finish(export_letters(search, file, Path(audit), remove=remove, json_output=json_output))


@app.command(
    "import",
    epilog=examples(
        "export DEAD_LETTER_TOPIC=dead-letters",
        "mlworker dead-letters import old.jsonl --dry-run",
        "mlworker dead-letters import old.jsonl --rate 50",
        note=f"Run again after an interruption, it goes on where the audit log ends. {_EXITS}",
    ),
)
@in_groups
def import_file(
    *,
    file: Annotated[Path, typer.Argument(help="What export wrote.")],
    topic: Annotated[
        str | None, typer.Option(envvar="DEAD_LETTER_TOPIC", help="Where to: short or full name.")
    ] = None,
    rate: Rate = None,
    limit: Annotated[int | None, typer.Option(min=1, help="No more than so many.")] = None,
    dry_run: DryRun = False,
    audit: AuditFile = "dead-letters-audit.jsonl",
    json_output: Json = False,
    connection: Connection,
) -> None:
    """Publish an export to the dead-letter topic again, each letter once."""
    require(
        {
            "GOOGLE_CLOUD_PROJECT (or --project)": connection.project,
            "DEAD_LETTER_TOPIC (or --topic)": topic,
        }
    )
    from consumer.dead_letters.importing import import_letters

    finish(
        import_letters(
            connection.place(),
            file,
            topic or "",
            Path(audit),
            rate=rate,
            limit=limit,
            dry_run=dry_run,
            json_output=json_output,
        )
    )


def finish(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Run what gives an exit code, and exit with it; what went wrong is said, not traced."""
    from consumer.broker import BrokerError, BrokerUnavailable
    from consumer.dead_letters.archive import InvalidArchive
    from consumer.dead_letters.audit import AuditFailed
    from consumer.dead_letters.desk import Interrupted
    from consumer.dead_letters.targets import NobodyListens
    from consumer.ops.logging import configure_logging

    # A person watches the bar and reads the audit log; whatever else collects stderr gets every event.
    configure_logging("WARNING" if sys.stderr.isatty() else "INFO", "json")
    try:
        code = run_to_end(work)
    except Interrupted:
        code = INTERRUPTED
    except BrokerUnavailable as error:
        fail(str(error), FAILED)
    except (BrokerError, NobodyListens, AuditFailed, InvalidArchive) as error:
        fail(str(error), BAD_INPUT)
    raise typer.Exit(code)
