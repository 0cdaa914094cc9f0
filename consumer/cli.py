"""The `mlworker` command. What needs torch is imported only by the commands that run models."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import orjson
import typer
from rich.console import Console

from consumer.ops.allocator import bound_allocator

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="mlworker",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="An event-driven ML worker for Google Cloud: a message per photo in, an acked result out.\n\n"
    "Start with [bold]mlworker demo[/bold]: it needs nothing but this machine.",
)
out, err = Console(), Console(stderr=True)


@app.command(
    epilog="Example:  mlworker demo --images ~/photos --out demo-out   then open demo-out/index.html"
)
def demo(
    images: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Your own photos; without, nursery scenes are generated."
        ),
    ] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Where pictures and results go.")] = Path(
        "demo-out"
    ),
    count: Annotated[int, typer.Option(min=1, help="How many scenes to generate.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the scenes: the same seed, the same photos.")] = 1,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")
    ] = False,
) -> None:
    """Run the main job on this machine: photos in, counted plants and annotated pictures out.

    The same worker as in production runs against an embedded Pub/Sub server, a folder instead of a bucket,
    and a small backend that is called back.
    """
    from consumer.local.demo import run_demo

    _exit(run_demo(images=images, out=out_folder, count=count, seed=seed, json_output=json_output))


@app.command(epilog="Example:  mlworker local --inbox inbox   then copy a photo to inbox/acme/originals/")
def local(
    port: Annotated[int, typer.Option(help="Of the Pub/Sub server.")] = 8085,
    inbox: Annotated[
        Path, typer.Option(help="Photos dropped under {tenant}/originals/ here are processed.")
    ] = Path("inbox"),
    backend_port: Annotated[int, typer.Option(help="Of the small backend and its page of results.")] = 8090,
) -> None:
    """Keep a whole worker running on this machine, to develop a backend against."""
    from consumer.local.local import run_local

    _exit(run_local(port=port, inbox=inbox, backend_port=backend_port))


@app.command(epilog="Exit codes: 0 drained, 1 failed, 2 configuration (the reason is on stderr).")
def run() -> None:
    """Run the worker against Google's services, configured by the environment alone.

    `mlworker settings` lists every variable. SIGTERM drains: work in flight is finished and acked, the rest
    is handed back. A second signal exits at once.
    """
    from consumer.serve import serve

    _exit(serve())


@app.command()
def settings(
    json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the environment variables of `mlworker run`, with defaults."""
    from consumer.reference import settings_rows

    rows = settings_rows()
    if json_output:
        _print_json([row._asdict() for row in rows])
        return
    for row in rows:
        out.print(
            f"[bold]{row.name}[/bold]  [dim]{row.default or 'required'}[/dim]\n    {row.text}",
            highlight=False,
        )


@app.command(epilog="Exit codes: 0 valid, 2 with every problem, each with its path and what was expected.")
def validate(
    file: Annotated[str, typer.Argument(help="JSON file, or - for standard input.")],
    model_path: Annotated[
        str,
        typer.Option(help="Folder of models.yaml to check model names against; `demo`: the packaged one."),
    ] = "demo",
    json_output: Annotated[bool, typer.Option("--json", help="Print the problems as JSON.")] = False,
) -> None:
    """Check a pipeline definition, a request, or the older named-pipeline message, without running it."""
    from consumer.validation import validate_text

    text = sys.stdin.read() if file == "-" else _read(Path(file))
    report = validate_text(text, model_path)
    if json_output:
        _print_json(report.as_json())
    else:
        for warning in report.warnings:
            err.print(f"[yellow]warning[/yellow] {warning}", highlight=False, markup=True, soft_wrap=True)
        for problem in report.problems:
            err.print(
                f"[red]{problem.path}[/red]: {_plain(problem.message)}", highlight=False, soft_wrap=True
            )
        if not report.problems:
            out.print(f"valid: {report.what}")
    raise typer.Exit(BAD_INPUT if report.problems else DONE)


@app.command()
def steps(
    name: Annotated[str | None, typer.Argument(help="One step, in full.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="With each step's JSON Schema.")] = False,
) -> None:
    """List the steps a pipeline may name: parameters, defaults, units, inputs and outputs."""
    from consumer.reference import UnknownStep, describe_steps, step_lines

    try:
        described = describe_steps(name)
    except UnknownStep as error:
        _fail(str(error), BAD_INPUT)
    if json_output:
        _print_json(described)
        return
    for line in step_lines(described, in_full=name is not None):
        out.print(line, highlight=False, soft_wrap=True)


@app.command()
def schema(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the JSON Schema files.")],
) -> None:
    """Write the JSON Schemas of every message in and out."""
    from contracts.schemas import json_schemas

    out_folder.mkdir(parents=True, exist_ok=True)
    for stem, content in json_schemas().items():
        path = out_folder / f"{stem}.json"
        path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        out.print(str(path), highlight=False)


@app.command(
    epilog="Example:  mlworker submit --tenant acme --image gs://b/acme/originals/1.jpg --pipeline count.json"
)
def submit(
    tenant: Annotated[str, typer.Option(help="Whose photo it is.")],
    image: Annotated[str, typer.Option(help="gs:// url of the photo.")],
    pipeline: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="JSON file of the definition.")],
    session: Annotated[str | None, typer.Option(help="Session id; without, a new one.")] = None,
    image_id: Annotated[str | None, typer.Option(help="Image id; without, a new one.")] = None,
    topic: Annotated[str | None, typer.Option(envvar="REQUESTS_TOPIC", help="Short or full name.")] = None,
    project: Annotated[str | None, typer.Option(envvar="GOOGLE_CLOUD_PROJECT", help="Of the topic.")] = None,
    emulator: Annotated[str | None, typer.Option(envvar="PUBSUB_EMULATOR_HOST", help="host:port.")] = None,
    callback_url: Annotated[str | None, typer.Option(help="Instead of the backend's own.")] = None,
    force: Annotated[bool, typer.Option(help="Run even if the same work is recorded.")] = False,
) -> None:
    """Publish one request, as the backend would, after checking it here."""
    from consumer.submit import InvalidRequest, request_of, submit_request

    if not topic or not project:
        _fail("REQUESTS_TOPIC and GOOGLE_CLOUD_PROJECT (or --topic and --project) are required", BAD_INPUT)
    try:
        request = request_of(tenant, image, _read(pipeline), session, image_id, callback_url)
    except InvalidRequest as error:
        _fail(str(error), BAD_INPUT)
    message_id = asyncio.run(submit_request(request, project, topic, emulator, force=force))
    _print_json(
        {"message_id": message_id, "session_id": request["session_id"], "image_id": request["image_id"]}
    )


def main() -> None:
    """Run the command line."""
    bound_allocator()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _exit(work: Any) -> NoReturn:
    """Run a coroutine that gives an exit code, and exit with it."""
    from consumer.models.manifest import InvalidManifest
    from consumer.presets import InvalidPresets
    from consumer.routes import InvalidRoutes
    from consumer.settings import InvalidSettings

    try:
        code = asyncio.run(work)
    except (InvalidSettings, InvalidManifest, InvalidRoutes, InvalidPresets) as error:
        _fail(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    raise typer.Exit(code)


def _fail(message: str, code: int) -> NoReturn:
    err.print(_plain(message), style="red", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"{path}: {error}", BAD_INPUT)


def _print_json(content: object) -> None:
    sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())


def _plain(text: str) -> str:
    """Keep rich from reading square brackets as markup."""
    return text.replace("[", r"\[")
