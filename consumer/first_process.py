"""What a container's first process has to do itself, because nobody stands above it."""

from __future__ import annotations

import os
import signal

_TERMINATED = 128 + signal.SIGTERM
"""The exit code of whatever SIGTERM has ended, as shells and kubelets tell it."""


def hear_sigterm() -> None:
    """End at SIGTERM from here on, if this is the first process of a container.

    For that one the kernel drops every signal that has no handler: a pod that is deleted while it still
    imports would not hear of it, take up work, and be killed when its grace period is over. `mlworker run`,
    and the commands that change something, put handlers of their own in this one's place.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(_TERMINATED))
