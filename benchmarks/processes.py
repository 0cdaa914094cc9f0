"""Other processes that take part: asked line by line, never waited for without a limit."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from typing import IO

LONGEST = 600.0
"""Seconds that nobody needs for an answer."""
_LAST_WORDS = 10.0
"""Seconds a process has to end what it started, which may lead sessions of its own."""


def line(process: subprocess.Popen[str], who: str, seconds: float = LONGEST) -> str:
    """Return the next line a process says, without its end.

    The process must say one line at a time: what it said beyond that is not seen before it says more.

    Raises:
        RuntimeError: it ended, or said nothing for so long; it is ended then.
    """
    pipe: IO[str] | None = process.stdout
    if pipe is None:
        raise ValueError(f"{who}: expected a process whose output is a pipe")
    if not select.select([pipe], [], [], seconds)[0]:
        process.kill()
        raise RuntimeError(f"{who} said nothing for {seconds:g} s")
    said = pipe.readline()
    if not said:
        raise RuntimeError(f"{who} ended: see what it said above")
    return said.rstrip("\n")


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session of its own, and whatever is left of that session.

    At first as Ctrl-C does: a Python program then leaves its `with` blocks, which SIGTERM would not do.
    """
    for reason in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, reason)
        except ProcessLookupError:
            break  # nobody is left
        try:
            process.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
