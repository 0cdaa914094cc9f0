"""`mlworker backfill`: what is typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consumer.help import examples
from consumer.terminal import BAD_INPUT, FAILED, fail, read_file, run_to_end


def add_backfill(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "export GOOGLE_CLOUD_PROJECT=nursery REQUESTS_TOPIC=requests",
            "mlworker backfill gs://photos/acme/ --pipeline count.json --dry-run",
            "mlworker backfill gs://photos/acme/ --pipeline count.json --rate 50",
            "mlworker backfill gs://photos/beds/ --tenant acme --pipeline count.json",
            note="The same command goes on where it was cut short. Exit codes: 0 all published, 1 failed, "
            "2 bad input or configuration, 130 interrupted.",
        )
    )(backfill)


def backfill(
    photos: Annotated[str, typer.Argument(metavar="gs://BUCKET/PREFIX", help="What the names begin with.")],
    pipeline: Annotated[Path, typer.Option(help="JSON file of the definition.")],
    settings: Annotated[Path | None, typer.Option(help="JSON file of the messages' settings.")] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Whose photos they are; without, each name's first folder.")
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="Session id (UUID) of all; without, each photo has its own.")
    ] = None,
    match: Annotated[str | None, typer.Option(help="Regular expression for whole names.")] = None,
    callback_url: Annotated[str | None, typer.Option(help="Instead of the backend's own.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run even if the same work is recorded.")] = False,
    rate: Annotated[
        float | None, typer.Option(min=0.01, help="So many a second; as fast as can be without.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="No more than so many now; the next run goes on.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Where it is kept how far it got; without, a file here.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count and show the first few.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")
    ] = False,
    topic: Annotated[str | None, typer.Option(envvar="REQUESTS_TOPIC", help="Short or full name.")] = None,
    project: Annotated[str | None, typer.Option(envvar="GOOGLE_CLOUD_PROJECT", help="Of the topic.")] = None,
    emulator: Annotated[str | None, typer.Option(envvar="PUBSUB_EMULATOR_HOST", help="host:port.")] = None,
    storage_emulator: Annotated[str | None, typer.Option(envvar="STORAGE_EMULATOR_HOST", help="URL.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to try for, in an outage.")] = 15.0,
) -> None:
    """Publish a request for every photo under a prefix: resumable, paced, and the same ids every time."""
    needed = {"GOOGLE_CLOUD_PROJECT (or --project)": project, "REQUESTS_TOPIC (or --topic)": topic}
    if not all(needed.values()):
        fail("\n".join(f"{name}: required" for name, value in needed.items() if not value), BAD_INPUT)
    from consumer.backfill.checkpoint import InvalidCheckpoint
    from consumer.backfill.running import How, InvalidBackfill, run_backfill, what_of
    from pipeline_steps.errors import StepError, StoreUnavailable
    from pipeline_steps.loading import PluginFailed

    how = How(
        project or "", topic or "", emulator, storage_emulator, timeout, rate, limit, dry_run, json_output
    )
    try:
        what = what_of(
            photos,
            read_file(pipeline),
            read_file(settings) if settings else None,
            tenant=tenant,
            session=session,
            match=match,
            callback_url=callback_url,
            force=force,
        )
        code = run_to_end(run_backfill(what, how, checkpoint))
    except (InvalidBackfill, InvalidCheckpoint, PluginFailed) as error:
        fail(str(error), BAD_INPUT)
    except StoreUnavailable as error:
        fail(str(error), FAILED)
    except StepError as error:
        fail(str(error), BAD_INPUT)
    raise typer.Exit(code)
