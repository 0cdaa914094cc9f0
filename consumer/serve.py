"""`mlworker run`: a worker in a pod, from start to drained."""

from __future__ import annotations

import asyncio
import os
import signal

import structlog

from consumer.app import open_worker
from consumer.broker import BrokerMisconfigured
from consumer.ops.logging import configure_logging
from consumer.settings import Settings, load_settings
from consumer.worker import Worker
from pipeline_steps.errors import ModelUnavailable, StoreMisconfigured

log = structlog.get_logger()

DRAINED, FAILED = 0, 1


async def serve(settings: Settings | None = None) -> int:
    """Run until SIGTERM or SIGINT, drain, and return the exit code.

    Raises:
        InvalidSettings: the environment cannot be used.
    """
    settings = settings or load_settings()
    configure_logging(settings.log_level, settings.log_format)
    try:
        async with open_worker(settings) as running:
            drain_on_signal(running.worker)
            await running.worker.run()
    except (ModelUnavailable, StoreMisconfigured, BrokerMisconfigured, OSError) as error:
        log.critical("start_failed", error=str(error))
        return FAILED
    log.info("drained")
    return DRAINED


def drain_on_signal(worker: Worker) -> None:
    """Drain at the first SIGTERM or SIGINT; leave at once at the second."""

    def stop() -> None:
        if worker.is_draining:
            os._exit(FAILED)
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
