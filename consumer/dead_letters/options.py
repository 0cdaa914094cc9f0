"""The options that the commands share, in groups, and what is made of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, TypeAlias, get_type_hints

import typer

from consumer.terminal import BAD_INPUT, fail, read_file

if TYPE_CHECKING:
    from consumer.dead_letters.desk import Place, Search
    from consumer.dead_letters.filters import Filters
    from consumer.dead_letters.patching import Patch

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
AuditFile = Annotated[str, typer.Option("--audit", help="JSON lines of who did what; read again too.")]
Rate = Annotated[float | None, typer.Option(min=0.01, help="So many a second; as fast as can be without.")]


@dataclass(frozen=True, slots=True)
class Connection:
    """Options that say where everything is."""

    panel: ClassVar[str] = "Where everything is"

    project: Annotated[
        str | None, typer.Option(envvar="GOOGLE_CLOUD_PROJECT", help="Of subscriptions and topics.")
    ] = None
    emulator: Annotated[str | None, typer.Option(envvar="PUBSUB_EMULATOR_HOST", help="host:port.")] = None
    bucket: Annotated[
        str | None, typer.Option(envvar="BUCKET", help="Where originals too large for a dead letter are.")
    ] = None
    storage_emulator: Annotated[str | None, typer.Option(envvar="STORAGE_EMULATOR_HOST", help="URL.")] = None
    timeout: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds to try for, in an outage.")] = 15.0

    def place(self) -> Place:
        """Return what it names."""
        from consumer.dead_letters.desk import Place

        return Place(
            self.project or "",
            self.emulator,
            self.bucket,
            self.storage_emulator,
            self.timeout,
        )


@dataclass(frozen=True, slots=True)
class Queue:
    """Options that say what is looked through."""

    panel: ClassVar[str] = "What is looked through"

    subscription: Annotated[
        str | None, typer.Option(envvar="DEAD_LETTER_SUBSCRIPTION", help="Short or full name.")
    ] = None
    wait: Annotated[
        float, typer.Option(min=0.2, max=600, help="Seconds without a message until it counts as empty.")
    ] = 5.0


@dataclass(frozen=True, slots=True)
class Selection:
    """Options that say which letters are meant."""

    panel: ClassVar[str] = "Which letters"

    tenant: Annotated[list[str] | None, typer.Option(help="Whose message it was.")] = None
    code: Annotated[list[str] | None, typer.Option(help="Such as invalid_pipeline, or not_acked.")] = None
    failure_class: Annotated[
        list[str] | None, typer.Option("--class", help="permanent, transient, not_found, internal.")
    ] = None
    step: Annotated[list[str] | None, typer.Option(help="Path such as steps.1, with all below it.")] = None
    since: Annotated[
        str | None, typer.Option(help="Died no earlier: 90s, 15m, 2h, 3d ago, or an ISO time.")
    ] = None
    until: Annotated[str | None, typer.Option(help="Died before.")] = None
    text: Annotated[str | None, typer.Option(help="In the error or the body; case does not matter.")] = None
    id: Annotated[
        list[str] | None, typer.Option(help="Of the dead letter, the original message, or the result.")
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="No more than so many.")] = None

    def filters(self) -> Filters:
        """Return what it means; a time that is none ends the command."""
        from datetime import UTC, datetime

        from consumer.dead_letters.filters import Filters, moment_of

        now = datetime.now(UTC)
        try:
            since, until = (moment_of(text, now) if text else None for text in (self.since, self.until))
        except ValueError as error:
            fail(f"--since, --until: {error}", BAD_INPUT)
        return Filters(
            frozenset(self.id or ()),
            frozenset(self.tenant or ()),
            frozenset(self.code or ()),
            frozenset(self.failure_class or ()),
            tuple(self.step or ()),
            since,
            until,
            self.text or None,
        )


_Group: TypeAlias = Connection | Queue | Selection


def search_of(selection: Selection, queue: Queue, connection: Connection) -> Search:
    """Return what the options look for; what is missing ends the command, all of it named."""
    require(
        {
            "GOOGLE_CLOUD_PROJECT (or --project)": connection.project,
            "DEAD_LETTER_SUBSCRIPTION (or --subscription)": queue.subscription,
        }
    )
    from consumer.dead_letters.desk import Search

    return Search(
        connection.place(), queue.subscription or "", queue.wait, selection.filters(), selection.limit
    )


def patch_of(file: Path | None) -> Patch | None:
    """Return the patch of a file, if one is named; one that cannot be used ends the command."""
    from consumer.dead_letters.patching import InvalidPatch, read_patch

    try:
        return read_patch(read_file(file)) if file else None
    except InvalidPatch as error:
        fail(f"{file}: {error}", BAD_INPUT)


def require(values: Mapping[str, str | None]) -> None:
    """End the command unless every option has a value; all that have none are named."""
    missing = [f"{name}: required" for name, value in values.items() if not value]
    if missing:
        fail("\n".join(missing), BAD_INPUT)


def in_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take whole groups of options: typer only knows single ones."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, list[inspect.Parameter]] = {}
    flat: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if parameter.annotation in (Connection, Queue, Selection):
            groups[name] = _options_of(parameter.annotation)
        flat += groups.get(name, [parameter])

    @functools.wraps(command)
    def run(**given: object) -> None:
        for name, options in groups.items():
            group = signature.parameters[name].annotation
            given[name] = group(**{option.name: given.pop(option.name) for option in options})
        command(**given)

    run.__signature__ = signature.replace(parameters=flat)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    del run.__wrapped__  # typer would look behind it
    return run


def _options_of(group: type[_Group]) -> list[inspect.Parameter]:
    kinds = get_type_hints(group, include_extras=True)
    for option in fields(group):
        kinds[option.name].__metadata__[0].rich_help_panel = group.panel
    return [
        inspect.Parameter(
            option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=kinds[option.name]
        )
        for option in fields(group)
    ]
