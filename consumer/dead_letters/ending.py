"""How the commands end: what went wrong, in words and as an exit code."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

import typer

from consumer.terminal import BAD_INPUT, FAILED, INTERRUPTED, fail, run_to_end


class Interrupted(Exception):
    """A person stopped it before anything was done."""


def finish(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Run what gives an exit code, and exit with it; what went wrong is said, not traced."""
    from consumer.broker import BrokerError, BrokerUnavailable
    from consumer.dead_letters.archive import InvalidArchive
    from consumer.dead_letters.audit import AuditFailed
    from consumer.dead_letters.targets import NobodyListens
    from consumer.ops.logging import configure_logging

    # A person watches the bar and reads the audit log; whatever else collects stderr gets every event.
    configure_logging("WARNING" if sys.stderr.isatty() else "INFO", "json")
    try:
        code = run_to_end(work)
    except Interrupted:
        code = INTERRUPTED
    except BrokerUnavailable as error:
        fail(str(error), FAILED)
    except (BrokerError, NobodyListens, AuditFailed, InvalidArchive) as error:
        fail(str(error), BAD_INPUT)
    raise typer.Exit(code)
