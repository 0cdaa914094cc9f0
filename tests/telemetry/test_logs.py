"""Logs as Cloud Logging reads them, and what becomes of warnings that repeat themselves."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import structlog

from consumer.ops import repeats
from consumer.ops.logging import configure_logging
from consumer.ops.otlp import OtlpTracer
from consumer.ops.repeats import FIRST, WINDOW, Repeats
from consumer.ops.tracing import Tracer, span
from consumer.settings import Settings
from tests.telemetry.collector import Collector
from tests.telemetry.test_traces import PARENT, TRACE
from tests.telemetry.test_without_collector import delivery
from tests.test_settings import LEAST

TRACE_FIELD, SPAN_FIELD, SAMPLED_FIELD = (
    f"logging.googleapis.com/{name}" for name in ("trace", "spanId", "trace_sampled")
)
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(logs: None, capsys: pytest.CaptureFixture[str]) -> Lines:
    """What was logged since it was asked last; logging must be configured by then."""
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(repeats.time, "monotonic", clock)
    monkeypatch.setattr(Repeats.__init__, "__defaults__", (clock,))
    return clock


def within(tracer: Tracer, work: Callable[[], None], **attributes: str) -> None:
    """Do something as a part of a message."""

    async def handle() -> None:
        with tracer.message(delivery(**attributes)):
            work()
        await tracer.close()

    asyncio.run(handle())


def test_a_line_about_a_message_stands_beside_its_publishers_span(lines: Lines) -> None:
    configure_logging("INFO", "json", "nursery")
    log = structlog.get_logger()

    within(Tracer(), lambda: log.warning("odd", tenant_id="acme"), traceparent=PARENT)
    log.error("alone")

    about, alone = lines()
    assert (about["severity"], about["message"]) == ("WARNING", "odd")
    assert (about[TRACE_FIELD], about[SAMPLED_FIELD]) == (f"projects/nursery/traces/{TRACE}", True)
    assert about[SPAN_FIELD] == PARENT.split("-")[2]
    assert alone["severity"] == "ERROR"
    assert TRACE_FIELD not in alone


def test_a_line_stands_beside_the_span_it_was_written_in_where_that_is_recorded(
    lines: Lines, traces: Collector
) -> None:
    configure_logging("INFO", "json", "nursery")

    def work() -> None:
        with span("fetch"):
            structlog.get_logger().info("ours")
            logging.getLogger("library").warning("theirs")

    settings = Settings(
        **{name.lower(): value for name, value in LEAST.items()}, otel_exporter_otlp_endpoint=traces.url
    )
    within(OtlpTracer(settings), work, traceparent=PARENT)

    [fetch] = traces.named("fetch")
    assert [(line[TRACE_FIELD], line[SPAN_FIELD], line[SAMPLED_FIELD]) for line in lines()] == [
        (f"projects/nursery/traces/{TRACE}", fetch.id, True)
    ] * 2


def test_a_publisher_that_does_not_sample_is_not_said_to(lines: Lines) -> None:
    configure_logging("INFO", "json", "nursery")
    within(Tracer(), lambda: structlog.get_logger().info("x"), traceparent=f"{PARENT[:-2]}00")

    assert [line[SAMPLED_FIELD] for line in lines()] == [False]


def test_where_no_project_is_known_there_are_no_such_fields(
    logs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO", "json")

    within(Tracer(), lambda: structlog.get_logger().info("x"), traceparent=PARENT)

    assert "googleapis" not in capsys.readouterr().err


def test_of_a_warning_that_repeats_itself_the_first_are_told_and_the_others_counted(
    clock: Clock, lines: Lines
) -> None:
    configure_logging("INFO", "json", "nursery")
    log = structlog.get_logger()
    for number in range(40):
        log.warning("pull_failed", error="nobody there")
        log.warning("pull_failed", error=f"another reason, {number}")

    told = lines()
    assert sum(line.get("error") == "nobody there" for line in told) == FIRST
    assert len(told) == FIRST + 40

    clock.now += WINDOW
    with structlog.contextvars.bound_contextvars(message_id="of somebody else"):
        log.info("whatever comes next")
        log.warning("pull_failed", error="nobody there")

    summary, following, again = lines()
    assert (summary["message"], summary["severity"]) == ("repeated", "WARNING")
    assert (summary["of"], summary["times"]) == ("pull_failed", 40 - FIRST)
    assert "nobody there" in summary["details"]
    assert "message_id" not in summary
    assert (following["message"], again["message"]) == ("whatever comes next", "pull_failed")


def test_the_same_warning_about_many_messages_is_one(clock: Clock, lines: Lines) -> None:
    configure_logging("INFO", "json", "nursery")
    for number in range(10):
        with structlog.contextvars.bound_contextvars(message_id=str(number)):
            structlog.get_logger().warning("message_warning", warning="colour: unknown key, not read")

    assert [line["message_id"] for line in lines()] == [str(number) for number in range(FIRST)]


def test_what_became_of_a_message_is_always_told_and_so_is_every_error(clock: Clock, lines: Lines) -> None:
    configure_logging("INFO", "json", "nursery")
    log = structlog.get_logger()
    for _ in range(20):
        log.warning("failed", code="invalid_input")
        log.error("dead_lettered", code="invalid_input")
        log.info("succeeded")
        log.warning("odd", exc_info=ValueError("with a traceback"))

    assert len(lines()) == 80


def test_libraries_that_repeat_themselves_are_cut_short_too(clock: Clock, lines: Lines) -> None:
    configure_logging("INFO", "json", "nursery")
    library = logging.getLogger("library")
    for number in range(20):
        library.error("no answer, trying again in %.2f s", number)
    logging.getLogger("py.warnings").warning("%s", "deprecated: one")
    logging.getLogger("py.warnings").warning("%s", "deprecated: two")

    told = lines()
    assert [line["message"] for line in told[:FIRST]] == [
        f"no answer, trying again in {number:.2f} s" for number in range(FIRST)
    ]
    assert [line["message"] for line in told[FIRST:]] == ["deprecated: one", "deprecated: two"]

    clock.now += WINDOW
    library.error("something else")
    assert [(line["message"], line.get("times")) for line in lines()] == [
        ("repeated", 20 - FIRST),
        ("something else", None),
    ]


def test_warnings_that_are_all_different_do_not_pile_up(clock: Clock, lines: Lines) -> None:
    configure_logging("INFO", "json", "nursery")
    counted = Repeats()

    for number in range(10_000):
        counted(None, "warning", {"event": "message_warning", "warning": f"key-{number}"})

    assert len(counted._counts) <= repeats._KNOWN
