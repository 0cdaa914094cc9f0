"""Without a collector nothing is recorded, nothing is sent, and what would do it is not even imported."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from consumer.broker import Delivery
from consumer.ops import tracing
from consumer.ops.tracing import Tracer, exemplar, recorded, span, trace_parent
from tests.command import ROOT, bare_environment
from tests.end_to_end.site import RESULTS_SUB
from tests.telemetry.test_traces import LOOK, PARENT
from tests.test_settings import LEAST

TRACED = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


def delivery(**attributes: str) -> Delivery:
    return Delivery("ack", "1", b"", attributes, datetime.now(UTC), None)


@pytest.mark.parametrize(("variables", "loaded"), [({}, []), (TRACED, ["opentelemetry.sdk"])])
def test_a_worker_imports_what_sends_traces_only_if_there_is_a_collector(
    variables: dict[str, str], loaded: list[str]
) -> None:
    code = (
        "import sys, consumer.serve, consumer.app, consumer.settings\n"
        "consumer.app._tracer(consumer.settings.load_settings())\n"
        "unwanted = ('opentelemetry.sdk', 'opentelemetry.exporter', 'opentelemetry.proto')\n"
        "print(*[name for name in unwanted if name in sys.modules][:1])"
    )
    environment = {name: value for name, value in bare_environment().items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **LEAST, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == loaded


def test_nothing_is_sent_and_the_publishers_trace_is_passed_on_as_it_came(play, traces):
    async def story(site):
        await site.photo()
        async with site.worker():
            site.publish(site.request(LOOK), googclient_traceparent=PARENT)
            site.publish(site.request(LOOK))
            await site.until_settled(2)
        assert site.reasons() == ["succeeded"] * 2
        assert traces.requests == 0
        told = {headers.get("traceparent") for _, _, headers, _ in site.backend.calls}
        assert told == {PARENT, None}
        published = await site.messages(RESULTS_SUB)
        assert {message.attributes.get("traceparent") for message in published} == {PARENT, None}

    play(story)


def test_a_span_that_is_not_recorded_is_one_and_the_same_object_and_costs_next_to_nothing() -> None:
    async def handle() -> None:
        with Tracer().message(delivery(traceparent=PARENT)):
            assert span("fetch", bytes=1) is span("callback")
            assert recorded() is None
            assert exemplar(recorded()) is None
            assert trace_parent() == PARENT
            began = time.process_time()
            for _ in range(100_000):
                with span("fetch", bytes=1):
                    pass
            # A third of a microsecond; a recorded one takes twenty. The limit only tells the two apart.
            assert (time.process_time() - began) / 100_000 < 10e-6

    asyncio.run(handle())


def test_a_messages_trace_is_not_the_next_ones() -> None:
    async def handle(attributes: dict[str, str]) -> str:
        with Tracer().message(delivery(**attributes)):
            await asyncio.sleep(0)
            return trace_parent()

    async def both() -> list[str]:
        return await asyncio.gather(handle({"traceparent": PARENT}), handle({}), handle({"traceparent": "?"}))

    assert asyncio.run(both()) == [PARENT, "", ""]


def test_at_debug_level_the_log_has_a_line_for_every_stage_of_a_message_with_its_time(play):
    async def story(site):
        await site.photo()
        site.backend.answers = [503]
        with capture_logs() as lines:
            async with site.worker(log_level="DEBUG"):
                site.publish(site.request(LOOK))
                site.publish(b"no message")
                await site.until_settled(2)
        stages = [line for line in lines if line["event"] == "stage"]
        assert {line["log_level"] for line in stages} == {"debug"}
        assert all(line["ms"] >= 0 for line in stages)
        by_name = {line["stage"]: line for line in stages if "failure" not in line}
        assert set(by_name) == {
            "decode message", "parse pipeline", "claim", "fetch", "download", "decode photo", "step look",
            "record", "publish results", "callback", "mark done", "publish dead letter", "ack", "message",
        }  # fmt: skip
        assert by_name["message"]["outcome"] == "succeeded"
        assert by_name["step look"]["path"] == "steps.0"
        assert by_name["download"]["bytes"] > 0
        failed = {line["stage"]: line["failure"] for line in stages if "failure" in line}
        assert failed == dict.fromkeys(("decode message", "message"), "malformed_message")
        [again] = [line for line in lines if line["event"] == "failed_try"]
        assert (again["stage"], again["code"]) == ("callback", "callback_failed")

    play(story)


def test_at_info_level_it_has_none(play):
    async def story(site):
        await site.photo()
        with capture_logs() as lines:
            async with site.worker():
                site.publish(site.request(LOOK))
                await site.until_settled(1)
        assert [line["event"] for line in lines if "message_id" not in line or line["event"] == "stage"] != []
        assert "stage" not in {line["event"] for line in lines}
        assert "succeeded" in {line["event"] for line in lines}

    play(story)


def test_every_failure_has_a_stable_name() -> None:
    from consumer.errors import HoldExpired

    class Coded(Exception):
        code = 404  # somebody else's idea of a code

    assert tracing.code_of(asyncio.CancelledError()) == "cancelled"
    assert tracing.code_of(HoldExpired("x")) == "hold_expired"
    assert tracing.code_of(Coded()) == "Coded"
    assert tracing.code_of(ZeroDivisionError("1/0")) == "ZeroDivisionError"
