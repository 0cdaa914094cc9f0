"""Logs: one JSON object a line, with the severity Cloud Logging knows; or coloured lines for people."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

_SEVERITY = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "error": "ERROR", "critical": "CRITICAL"}


def configure_logging(level: str, style: Literal["json", "console"]) -> None:
    """Send all logs, ours and the libraries', to stderr in one style."""
    number = logging.getLevelNamesMapping()[level]
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if style == "json":
        processors += [
            structlog.processors.format_exc_info,
            _for_cloud_logging,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ]
    else:
        processors += [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr, force=True)


def _for_cloud_logging(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    del logger, method
    event["severity"] = _SEVERITY.get(event.pop("level", "info"), "DEFAULT")
    event["message"] = event.pop("event", "")
    return event


def _dumps(event: EventDict, **_: object) -> str:
    return orjson.dumps(event, default=str).decode()
