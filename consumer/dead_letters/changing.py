"""`mlworker dead-letters`: the commands that change something."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consumer.dead_letters.ending import finish
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
from consumer.terminal import BAD_INPUT, fail

_EXITS = (
    "Exit codes: 0 all that match were done; 1 some were kept or not confirmed, each with its reason on "
    "stderr; 2 bad input or configuration; 130 interrupted: what was not done is still there."
)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command(
        epilog=examples(
            "mlworker dead-letters replay --code model_mismatch --limit 1      one first",
            "mlworker dead-letters replay --code model_mismatch --rate 20",
            "mlworker dead-letters replay --tenant acme --patch patch.json --dry-run",
            "mlworker dead-letters replay --id 1234567890 --to requests",
            note=f"A letter is acked only after the broker has confirmed its replay. {_EXITS}",
        )
    )(in_groups(replay))
    app.command(
        epilog=examples(
            "mlworker dead-letters discard --code malformed_message --until 7d",
            "mlworker dead-letters discard --id 1234567890 --yes",
            "mlworker dead-letters export old.jsonl --until 7d --remove      to keep a copy",
            note=_EXITS,
        )
    )(in_groups(discard))
    app.command(
        epilog=examples(
            "mlworker dead-letters export today.jsonl --since 1d",
            "mlworker dead-letters export old.jsonl --until 20d --remove",
            note=f"One JSON object a line; a file that is there is never written over. {_EXITS}",
        )
    )(in_groups(export))
    app.command(
        "import",
        epilog=examples(
            "export DEAD_LETTER_TOPIC=dead-letters",
            "mlworker dead-letters import old.jsonl --dry-run",
            "mlworker dead-letters import old.jsonl --rate 50",
            note=f"Run again after an interruption, it goes on where the audit log ends. {_EXITS}",
        ),
    )(in_groups(import_file))


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
