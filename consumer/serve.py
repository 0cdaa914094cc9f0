"""`mlworker run`: a worker in a pod, from start to drained."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import structlog

from consumer.broker import BrokerError
from consumer.ops.logging import configure_logging
from consumer.settings import Settings, load_settings
from consumer.starting import start_worker
from contracts import __version__
from pipeline_steps.errors import StepError

if TYPE_CHECKING:
    from consumer.worker import Worker

log = structlog.get_logger()

DRAINED, FAILED, INTERRUPTED = 0, 1, 130

CLOSE_TIMEOUT = 5.0
"""Seconds that closing may take once everything is settled: a step's thread cannot be interrupted."""


async def serve(settings: Settings | None = None) -> int:
    """Run until SIGTERM or SIGINT, drain, and return the exit code.

    Raises:
        InvalidSettings, InvalidManifest, InvalidRoutes, InvalidPresets, PluginFailed: an operator's input
            cannot be used.
    """
    settings = settings or load_settings()
    configure_logging(settings.log_level, settings.log_format, settings.google_cloud_project)
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed
    sys.excepthook = _crashed
    signals = Signals()
    signals.listen()
    log.info("starting", version=__version__)
    try:
        # With an emulator nothing is real, and the backend may be on this machine too.
        async with start_worker(settings, is_local=settings.pubsub_emulator_host is not None) as running:
            signals.worker = running.worker
            await running.worker.run()
            code = FAILED if running.worker.broken else signals.exit_code
            leave_within(CLOSE_TIMEOUT, code)
    except (StepError, BrokerError, OSError) as error:
        log.critical("start_failed", error=str(error) or type(error).__name__)
        return FAILED
    log.info("drained")
    return code


class Signals:
    """What SIGTERM and SIGINT do: the first drains, the second ends the process at once."""

    worker: Worker | None = None
    """None while it starts: then nothing is leased, and there is nothing to drain."""

    def __init__(self) -> None:
        self._first: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        """What to exit with once drained."""
        return INTERRUPTED if self._first is signal.SIGINT else DRAINED

    def listen(self) -> None:
        """Take both signals from here on: the first process of a pod would otherwise not hear them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._received, number)

    def _received(self, number: signal.Signals) -> None:
        again, self._first = self._first is not None, number
        if again:
            log.warning("stopped_at_once", signal=number.name)
            os._exit(INTERRUPTED if number is signal.SIGINT else FAILED)
        if self.worker is None:
            log.info("stopped_while_starting", signal=number.name)
            os._exit(self.exit_code)
        log.info("stopping", signal=number.name)
        self.worker.stop()


def leave_within(seconds: float, code: int) -> None:
    """End the process with `code` if it has not ended by itself by then."""

    def leave() -> NoReturn:
        log.warning("left_behind", threads=[thread.name for thread in threading.enumerate()])
        os._exit(code)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    error = failed.exc_value or failed.exc_type()
    log.critical("thread_failed", thread=failed.thread.name if failed.thread else "", exc_info=error)


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("crashed", exc_info=(kind, error, trace))
