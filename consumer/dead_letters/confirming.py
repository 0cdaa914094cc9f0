"""Asking a person, while leases are renewed and Ctrl-C is heard."""

from __future__ import annotations

import asyncio
import os
import sys

from consumer.interrupt import Stop
from consumer.terminal import console


async def confirmed(question: str, stop: Stop) -> bool:
    """Ask at the terminal; anything but `y` or `yes` means no, and so does Ctrl-C.

    Not by a thread that reads: one that waits for a line cannot be ended.
    """
    loop, typed = asyncio.get_running_loop(), asyncio.Event()
    console(stderr=True).print(f"{question} [y/N] ", end="", markup=False)
    file = sys.stdin.fileno()
    loop.add_reader(file, typed.set)
    try:
        while not typed.is_set():
            if await stop.within(0.1):
                return False
    finally:
        loop.remove_reader(file)
    answer = os.read(file, 1000).decode("utf-8", "replace")
    return answer.strip().lower() in ("y", "yes")
