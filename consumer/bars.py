"""A progress bar on stderr, where a person looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from consumer.terminal import console


class _Speed(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        """Return it in words."""
        return Text(f"{task.speed:.0f}/s" if task.speed else "", "dim")


@contextmanager
def bar(title: str, total: int | None, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show how far something is while the context lasts; call what it gives with how many are done.

    Args:
        title: what is going on.
        total: how many there will be; None if nobody knows.
        quiet: show nothing, as where stderr is no terminal.
    """
    errors = console(stderr=True)
    columns: tuple[ProgressColumn, ...] = (
        SpinnerColumn() if total is None else BarColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed}") if total is None else MofNCompleteColumn(),
        _Speed(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=quiet or not errors.is_terminal) as shown:
        task = shown.add_task(title, total=total)
        yield lambda done: shown.update(task, completed=done)
