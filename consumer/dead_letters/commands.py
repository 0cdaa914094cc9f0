"""`mlworker dead-letters`: the commands that only look. `changing.py` has those that change something."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consumer.dead_letters import changing
from consumer.dead_letters.ending import finish
from consumer.dead_letters.options import (
    Connection,
    Json,
    Queue,
    Selection,
    in_groups,
    patch_of,
    search_of,
)
from consumer.help import examples

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


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
        note="Exit codes: 0 done, 1 the broker is away, 2 bad input or configuration, 130 interrupted.",
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
        note="Exit codes: 0 done, 1 the broker is away, 2 bad input or configuration, 130 interrupted.",
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


changing.add_to(app)
