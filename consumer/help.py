"""What `--help` shows beside the options: examples, and the environment where a command is told by it."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from consumer.terminal import console


def examples(*commands: str, note: str) -> str:
    """Return the end of a command's help: commands to copy, and what else is good to know."""
    lines = "\n".join(f"  {command}" for command in commands)
    return f"[bold]Examples[/bold]\n{lines}\n\n{note}"


class WithSettings(TyperCommand):
    """Adds the environment variables to the help of a command that is configured by them."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the usual help, then the variables."""
        from consumer.printing import print_settings
        from consumer.reference import settings_reference

        super().format_help(ctx, formatter)
        print_settings(console(), settings_reference())
