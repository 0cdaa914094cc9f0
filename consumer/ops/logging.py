"""Logs: one JSON object a line, with the severity Cloud Logging knows; or coloured lines for people.

The last thing that happens to a line, whoever wrote it, is that secrets are cut out: after rendering, so that
none hides in an exception or in a value that became text only then.
"""

from __future__ import annotations

import json
import logging
import sys
from functools import partial
from typing import Literal

import orjson
import structlog
from structlog.stdlib import ProcessorFormatter, add_logger_name
from structlog.typing import EventDict, Processor, WrappedLogger

from consumer.ops.repeats import Repeats
from consumer.ops.tracing import trace_parent
from consumer.redaction import redacted

_SEVERITY = {"debug": "DEBUG", "info": "INFO", "warning": "WARNING", "error": "ERROR", "critical": "CRITICAL"}


def configure_logging(level: str, style: Literal["json", "console"], project: str = "") -> None:
    """Send all logs, ours and the libraries', to stderr in one style; of the libraries from warnings on.

    Args:
        level: the least severe that is told.
        style: for machines, or for people.
        project: where Cloud Trace has the traces, so that Cloud Logging can show a line beside its span.
    """
    number = logging.getLevelNamesMapping()[level]
    repeats = Repeats()
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers = _as_json(project) if style == "json" else _for_people()
    structlog.configure(
        processors=[repeats, *common, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(repeats.filter)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[add_logger_name, *common],
            processors=[ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


def _as_json(project: str) -> list[Processor]:
    return [
        structlog.processors.format_exc_info,
        partial(_for_cloud_logging, project),
        _without_secrets(structlog.processors.JSONRenderer(serializer=_dumps)),
    ]


def _for_people() -> list[Processor]:
    # Plain tracebacks: the pretty ones show every frame's variables, and tokens and keys are among them.
    render = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    return [_without_secrets(render)]


def _without_secrets(render: Processor) -> Processor:
    def rendered(logger: WrappedLogger, method: str, event: EventDict) -> str:
        return redacted(str(render(logger, method, event)))

    return rendered


def _for_cloud_logging(project: str, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    del logger, method
    event["severity"] = _SEVERITY.get(event.pop("level", "info"), "DEFAULT")
    event["message"] = event.pop("event", "")
    if project and (parent := trace_parent()):
        _, trace, span, flags = parent.split("-")
        event["logging.googleapis.com/trace"] = f"projects/{project}/traces/{trace}"
        event["logging.googleapis.com/spanId"] = span
        event["logging.googleapis.com/trace_sampled"] = bool(int(flags, 16) & 1)
    return event


def _dumps(event: EventDict, **_: object) -> str:
    try:
        return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:  # such as half of a surrogate pair: a log must never fail
        return json.dumps(event, default=str)
