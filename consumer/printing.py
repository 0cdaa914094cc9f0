"""How the command line shows the reference to a person.

Nothing here is read as markup: names and descriptions come from plug-ins and messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from consumer.reference import Setting, StepEntry

_INDENT = (0, 0, 0, 2)


def print_steps(console: Console, steps: Sequence[StepEntry]) -> None:
    """Print the catalogue, a step a row."""
    table = _grid()
    for step in steps:
        table.add_row(Text(step.name, "bold"), Text(step.summary))
        table.add_row("", Text(_signature(step), "dim"))
    console.print(table)
    console.print(Text("\nmlworker steps NAME shows one in full; a ? marks what may be missing.", "dim"))


def print_step(console: Console, step: StepEntry) -> None:
    """Print one step in full."""
    for part in _parts(step):
        console.print(part)


def print_settings(console: Console, settings: Iterable[Setting]) -> None:
    """Print the environment variables, a variable a row."""
    table = _grid(columns=3)
    for setting in settings:
        name = Text(setting.name, "bold red" if setting.required else "bold")
        table.add_row(name, Text(setting.shown, "dim"), Text(setting.description))
    console.print(table)


def _parts(step: StepEntry) -> Iterator[RenderableType]:
    yield Text(step.name, "bold").append(f"  {step.summary}", "not bold")
    if step.details:
        yield Padding(Text(f"\n{_unwrapped(step.details)}"), _INDENT)
    flow = _grid()
    flow.add_row(Text("reads", "dim"), Text(step.reads or "nothing"))
    flow.add_row(Text("writes", "dim"), Text(step.writes or "nothing"))
    yield Text("")
    yield Padding(flow, _INDENT)
    for parameter in step.parameters:
        line = Text(f"\n{parameter.name}", "bold")
        line.append(f"  {parameter.type}", "not bold")
        line.append("  required" if parameter.required else f"  = {parameter.shown}", "not bold cyan")
        if parameter.setting:
            line.append(f"  (or the setting {parameter.setting})", "not bold dim")
        yield Padding(line, _INDENT)
        yield Padding(Text(parameter.description), (0, 0, 0, 6))


def _signature(step: StepEntry) -> str:
    return f"{step.reads or 'nothing'} → {step.writes or 'nothing'}"


def _unwrapped(paragraphs: str) -> str:
    """Join the lines of paragraphs and list items: the terminal's width is not the source file's."""
    return re.sub(r"(?<!\n)\n(?!\n|\d+\. |- )\s*", " ", paragraphs)


def _grid(columns: int = 2) -> Table:
    table = Table.grid(padding=(0, 2))
    for i in range(columns):
        table.add_column(no_wrap=i == 0, overflow="fold")
    return table
