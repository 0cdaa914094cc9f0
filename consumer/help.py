"""What `--help` shows beside the options: examples, the environment of a command; and the version."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from consumer.terminal import console
from contracts import __version__


def examples(*commands: str, note: str) -> str:
    """Return the end of a command's help: commands to copy, and what else is good to know."""
    lines = "\n".join(f"  {command}" for command in commands)
    return f"[bold]Examples[/bold]\n{lines}\n\n{note}"


def print_version(asked: bool) -> None:
    """End the command with its version, if that was asked for."""
    if asked:
        typer.echo(f"mlworker {__version__}")
        raise typer.Exit


class WithSettings(TyperCommand):
    """Adds the environment variables to the help of a command that is configured by them."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the usual help, then the variables."""
        from consumer.printing import print_settings
        from consumer.reference import settings_reference

        super().format_help(ctx, formatter)
        print_settings(console(), settings_reference())
