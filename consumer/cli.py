"""The `mlworker` command. What is slow to import is imported only by the commands that need it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

from consumer.backfill.command import add_backfill
from consumer.dead_letters.commands import app as dead_letters
from consumer.doctor.command import add_doctor
from consumer.first_process import hear_sigterm
from consumer.help import WithSettings, examples, print_version
from consumer.lean_imports import import_without_extras
from consumer.ops.allocator import bound_allocator
from consumer.terminal import (
    BAD_INPUT,
    DONE,
    FAILED,
    console,
    exit_with,
    fail,
    print_json,
    print_report,
    read_file,
    run_to_end,
)

ModelPath = Annotated[str, typer.Option(help="Folder of models.yaml; `demo`: the packaged models.")]

app = typer.Typer(
    name="mlworker",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(dead_letters, name="dead-letters")


@app.callback(
    epilog=examples(
        "mlworker demo                      the whole job on this machine",
        "mlworker steps                     what a pipeline may be made of",
        "mlworker validate pipeline.json    what is wrong with a pipeline, and where",
        note="Exit codes: 0 done, 1 failed, 2 bad input or settings, 130 interrupted; reasons on stderr.",
    )
)
def mlworker(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """An event-driven ML worker for Google Cloud: a message per photo in, an acked result out.

    Start with [bold]mlworker demo[/bold]: it needs nothing but this machine.
    """


@app.command(
    epilog=examples(
        "mlworker demo                        then open demo-out/index.html",
        "mlworker demo --images ~/photos      your own: JPEG, PNG, WebP, TIFF",
        "mlworker demo --count 40 --seed 7",
        "mlworker demo --model-path models/   your own; one must be called plants",
        note="Exit codes: 0 if every photo ended as a result and a callback, 1 if not, 2 bad input.",
    )
)
def demo(
    images: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Your own photos, not generated scenes.")
    ] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="For pictures and results.")] = Path("demo-out"),
    count: Annotated[int, typer.Option(min=1, help="How many scenes to generate.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the scenes: the same seed, the same photos.")] = 1,
    model_path: ModelPath = "demo",
    json_output: Annotated[bool, typer.Option("--json", help="Print the summary as JSON only.")] = False,
) -> None:
    """Run the main job on this machine: photos in, counted plants and annotated pictures out.

    The same worker as in production, an embedded Pub/Sub server, a folder for a bucket, and a small backend.
    """
    from consumer.local.demo import run_demo
    from consumer.local.embedded import Emulators

    exit_with(
        run_demo(
            images=images,
            out=out_folder,
            count=count,
            seed=seed,
            json_output=json_output,
            model_path=model_path,
            emulators=Emulators.named(),
        )
    )


@app.command(
    epilog=examples(
        "mlworker local",
        "cp photo.jpg inbox/acme/originals/      in another terminal: it is processed at once",
        "mlworker local --port 9085 --inbox ~/drop",
        note="Ctrl-C ends it.",
    )
)
def local(
    port: Annotated[int, typer.Option(help="Of the Pub/Sub server.")] = 8085,
    inbox: Annotated[
        Path, typer.Option(help="Photos dropped under {tenant}/originals/ here are processed.")
    ] = Path("inbox"),
    backend_port: Annotated[int, typer.Option(help="Of the small backend and its page of results.")] = 8090,
    model_path: ModelPath = "demo",
) -> None:
    """Keep a whole worker running on this machine, to develop a backend against.

    It prints what to set, and commands to copy.
    """
    from consumer.local.embedded import Emulators
    from consumer.local.local import run_local

    servers = Emulators.named()
    exit_with(
        run_local(port=port, inbox=inbox, backend_port=backend_port, model_path=model_path, emulators=servers)
    )


@app.command(
    cls=WithSettings,
    epilog=examples(
        "export GOOGLE_CLOUD_PROJECT=nursery SUBSCRIPTION=work",
        "export RESULTS_TOPIC=results DEAD_LETTER_TOPIC=dead-letters",
        "export BUCKET=photos BACKEND_URL=https://backend.example",
        "mlworker run",
        note="Exit codes: 0 drained after SIGTERM, 1 failed, 2 configuration (the reason is on stderr), "
        "130 drained after Ctrl-C.",
    ),
)
def run() -> None:
    """Run the worker against Google's services, configured by the environment alone.

    SIGTERM drains: what runs is finished and acked, the rest handed back. A second signal exits at once.
    """
    import_without_extras()
    from consumer.serve import serve

    exit_with(serve(), at_once=True)


add_doctor(app)


@app.command(
    epilog=examples("mlworker settings", "mlworker settings --json", note="Times are seconds, sizes bytes.")
)
def settings(json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List the environment variables of `mlworker run`, with their defaults."""
    from consumer.reference import settings_reference

    if json_output:
        print_json([setting.as_json() for setting in settings_reference()])
        return
    from consumer.printing import print_settings

    print_settings(console(), settings_reference())


@app.command(
    epilog=examples(
        "mlworker validate pipeline.json",
        "mlworker validate request.json --model-path models/",
        "jq .pipeline_definition request.json | mlworker validate - --json",
        note="Exit codes: 0 valid; 2 with every problem on stderr, each with its path and what was expected.",
    )
)
def validate(
    file: Annotated[str, typer.Argument(help="JSON file, or - for standard input.")],
    model_path: ModelPath = "demo",
    json_output: Annotated[bool, typer.Option("--json", help="Print the problems as JSON.")] = False,
) -> None:
    """Check a pipeline definition, a request, or the older named-pipeline message, without running it."""
    from consumer.validation import validate_json
    from pipeline_steps.loading import PluginFailed

    data = sys.stdin.buffer.read() if file == "-" else read_file(Path(file))
    try:
        report = validate_json(data, model_path)
    except PluginFailed as error:
        fail(str(error), BAD_INPUT)
    if json_output:
        print_json(report.as_json())
    else:
        print_report(report)
    raise typer.Exit(BAD_INPUT if report.problems else DONE)


@app.command(
    epilog=examples(
        "mlworker steps",
        "mlworker steps detection",
        "mlworker steps sahi_detection --json",
        note="Steps of installed plug-ins are listed too.",
    )
)
def steps(
    name: Annotated[str | None, typer.Argument(help="One step, in full.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="With each step's JSON Schema.")] = False,
) -> None:
    """List the steps a pipeline may name: parameters, defaults, units, inputs and outputs."""
    from consumer.reference import UnknownStep, step_reference
    from pipeline_steps.loading import PluginFailed

    try:
        entries = step_reference(name)
    except (UnknownStep, PluginFailed) as error:
        fail(str(error), BAD_INPUT)
    if json_output:
        print_json([entry.as_json() for entry in entries])
        return
    from consumer.printing import print_step, print_steps

    if name is None:
        print_steps(console(), entries)
    else:
        print_step(console(), entries[0])


@app.command(
    epilog=examples("mlworker schema --out schemas", note="Each file describes one message, in or out.")
)
def schema(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder for the files; made if missing.")],
) -> None:
    """Write the JSON Schemas of every message in and out, and print the files' names."""
    from contracts.schemas import json_schemas

    for stem, content in json_schemas().items():
        path = out_folder / f"{stem}.json"
        try:
            out_folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            fail(f"cannot write {path}: {error.strerror}", BAD_INPUT)
        typer.echo(path)


@app.command(
    epilog=examples(
        "export GOOGLE_CLOUD_PROJECT=nursery REQUESTS_TOPIC=requests",
        "mlworker submit --tenant acme --pipeline count.json \\",
        "    --image gs://photos/acme/originals/1.jpg",
        note="It prints the message's id and the ids of session and image as JSON.",
    )
)
def submit(
    tenant: Annotated[str, typer.Option(help="Whose photo it is.")],
    image: Annotated[str, typer.Option(help="gs:// url of the photo.")],
    pipeline: Annotated[Path, typer.Option(help="JSON file of the definition.")],
    session: Annotated[str | None, typer.Option(help="Session id (UUID); without, a new one.")] = None,
    image_id: Annotated[str | None, typer.Option(help="Image id (UUID); without, a new one.")] = None,
    topic: Annotated[str | None, typer.Option(envvar="REQUESTS_TOPIC", help="Short or full name.")] = None,
    project: Annotated[str | None, typer.Option(envvar="GOOGLE_CLOUD_PROJECT", help="Of the topic.")] = None,
    emulator: Annotated[str | None, typer.Option(envvar="PUBSUB_EMULATOR_HOST", help="host:port.")] = None,
    callback_url: Annotated[str | None, typer.Option(help="Instead of the backend's own.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run even if the same work is recorded.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to try for.")] = 15.0,
) -> None:
    """Publish one request, as the backend would, after checking it here."""
    from consumer.submit import InvalidRequest, NotPublished, request_of, submit_request
    from pipeline_steps.loading import PluginFailed

    if not project or not topic:
        needed = {"GOOGLE_CLOUD_PROJECT (or --project)": project, "REQUESTS_TOPIC (or --topic)": topic}
        fail("\n".join(f"{name}: required" for name, value in needed.items() if not value), BAD_INPUT)
    try:
        request = request_of(tenant, image, read_file(pipeline), session, image_id, callback_url)
        message_id = run_to_end(
            submit_request(request, project, topic, emulator, force=force, timeout=timeout)
        )
    except (InvalidRequest, PluginFailed) as error:
        fail(str(error), BAD_INPUT)
    except NotPublished as error:
        fail(str(error), BAD_INPUT if error.needs_operator else FAILED)
    print_json(
        {"message_id": message_id, "session_id": request["session_id"], "image_id": request["image_id"]}
    )


add_backfill(app)


def main() -> None:
    """Run the command line."""
    hear_sigterm()
    bound_allocator()
    app()
