"""One trace a message, read back from a collector: from its publisher's span to its ack."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from consumer.ops.otlp import FLUSH_SECONDS
from pipeline_steps.loading import load_steps
from tests.end_to_end.site import BUCKET, DEAD_SUB, RESULTS_SUB
from tests.end_to_end.test_fairness import MODEL

TRACE, PUBLISHER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{PUBLISHER}-01"
LOOK = {"type": "step", "name": "look"}
FIND = {"type": "step", "name": "sahi_detection", "kwargs": {"model": "finder"}}
COUNT = {"type": "step", "name": "count"}
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


def with_models(site, device: str, **changes):
    """What a worker is told, so that it has a model without torch."""
    site.steps = load_steps(plugins=False)
    (site.models / "models.yaml").write_text(MODEL.format(digest="0" * 64))
    return {"devices": device, "model_path": str(site.models), **changes}


def test_a_message_leaves_one_trace_from_its_publisher_to_its_ack(play, traces, backend):
    async def story(site):
        await site.photo()
        site.backend.answers = [503]
        body = site.request({"type": "group", "steps": [FIND, FIND]}, COUNT)
        told = with_models(site, "simulated", otel_exporter_otlp_endpoint=traces.url)
        async with site.worker(**told) as running, httpx.AsyncClient(trust_env=False) as client:
            with backend.start_as_current_span("send photo", kind=SpanKind.PRODUCER):
                attributes: dict[str, str] = {}
                TraceContextTextMapPropagator().inject(attributes)
                message = site.publish(body, **attributes)
            await site.until_settled(1)
            url = f"http://127.0.0.1:{running.port}/metrics"
            plain = (await client.get(url)).text
            numbers = (await client.get(url, headers=OPENMETRICS)).text
        assert site.reasons() == ["succeeded"]
        [sent] = traces.named("send photo")
        trace = sent.trace
        spans = {span.id: span for span in traces.of(trace)}
        [root] = [span for span in spans.values() if span.parent == sent.id]

        # Nobody's parent is missing: only the publisher has none. No span of the worker's lasts longer than
        # the one it is a part of.
        assert [span for span in spans.values() if span.parent not in spans] == [sent]
        assert (sent.parent, sent.resource["service.name"]) == ("", "backend")
        for span in spans.values():
            if span not in (sent, root):
                assert spans[span.parent].start <= span.start <= span.end <= spans[span.parent].end, span

        def path(span):
            return ([] if span in (sent, root) else path(spans[span.parent])) + [span.name]

        top = sorted((span for span in spans.values() if span.parent == root.id), key=lambda it: it.start)
        journey = [span.name for span in top]
        assert journey == [
            "decode message", "parse pipeline", "claim", "fetch", "step sahi_detection",
            "step sahi_detection", "step count", "record", "publish results", "callback", "mark done", "ack",
        ]  # fmt: skip
        paths = [path(span)[1:] for span in spans.values()]
        assert ["fetch", "download"] in paths
        assert ["fetch", "decode photo"] in paths
        assert paths.count(["step sahi_detection", "ask finder"]) == 2
        assert {span.error for span in spans.values()} == {None}

        # What a reader looks for.
        assert (root.name, root.kind) == ("process work", "CONSUMER")
        assert (
            root.attributes.items()
            >= {
                "messaging.system": "gcp_pubsub",
                "messaging.operation.type": "process",
                "messaging.destination.subscription.name": "work",
                "messaging.message.id": message,
                "mlworker.tenant_id": "acme",
                "mlworker.session_id": body["session_id"],
                "mlworker.image_id": body["image_id"],
                "mlworker.result_id": next(iter(site.backend.accepted("/results"))),
                "mlworker.outcome": "succeeded",
            }.items()
        )
        assert root.resource.items() >= {"service.name": "mlworker"}.items()
        by_name = {span.name: span for span in spans.values()}
        assert by_name["step count"].attributes["mlworker.path"] == "steps.1"
        assert by_name["fetch"].start < by_name["download"].end <= by_name["decode photo"].end

        # Others are told of the span that they are called in, with the publisher's flags, and a second try is
        # the same call.
        flags = attributes["traceparent"][-2:]
        [published] = await site.messages(RESULTS_SUB)
        assert published.attributes["traceparent"] == by_name["publish results"].trace_parent[:-2] + flags
        assert by_name["publish results"].kind == "PRODUCER"
        assert by_name["publish results"].attributes["messaging.destination.name"].endswith("results")
        callback = by_name["callback"]
        told = [headers["traceparent"] for _, _, headers, _ in site.backend.calls]
        assert told == [callback.trace_parent[:-2] + flags] * 2
        assert (callback.kind, callback.attributes["http.response.status_code"]) == ("CLIENT", 200)
        assert [(name, it["mlworker.code"]) for name, it in callback.events] == [
            ("failed_try", "callback_failed")
        ]

        # Nothing of what is in the message, or of where things are.
        shown = [str(value) for span in traces.spans for value in span.attributes.values()]
        assert not [value for value in shown if "://" in value or "originals" in value or "kwargs" in value]

        # And numbers lead to the trace, for those who can read that.
        assert exemplars(numbers, "mlworker_message_seconds") == {trace}
        assert exemplars(numbers, "mlworker_decode_seconds") == {trace}
        assert exemplars(numbers, "mlworker_queue_wait_seconds") == {trace}
        assert trace not in plain

    play(story)


def exemplars(text: str, name: str) -> set[str]:
    """The traces that a histogram names."""
    [family] = [each for each in text_string_to_metric_families(text) if each.name == name]
    return {sample.exemplar.labels["trace_id"] for sample in family.samples if sample.exemplar}


def test_a_batch_is_linked_to_the_messages_in_it_and_they_to_the_batch(play, traces):
    tenants = [f"tenant-{number}" for number in range(4)]

    async def story(site):
        for tenant in tenants:
            await site.photo(f"{tenant}/originals/a.jpg")
        told = with_models(site, "simulated:fixed=0.3", otel_exporter_otlp_endpoint=traces.url)
        # Only what publishers want to be traced; and the batches that it is in, though nobody wanted those.
        told["otel_traces_sampler"] = "parentbased_always_off"
        async with site.worker(**told) as running, httpx.AsyncClient(trust_env=False) as client:
            for number, tenant in enumerate(tenants):
                url = f"gs://{BUCKET}/{tenant}/originals/a.jpg"
                body = site.request(FIND, tenant_id=tenant, image_url=url)
                site.publish(body, traceparent=f"00-{number + 1:032x}-{PUBLISHER}-01")
            await site.until_settled(4)
            numbers = (await client.get(f"http://127.0.0.1:{running.port}/metrics")).text
        assert site.reasons() == ["succeeded"] * 4
        asks, batches = traces.named("ask finder"), traces.named("batch finder")
        assert {ask.trace for ask in asks} == {f"{number + 1:032x}" for number in range(4)}
        links = {(batch.place, asked_by) for batch in batches for asked_by in batch.links}
        assert links == {(batch, ask.place) for ask in asks for batch in ask.links}
        assert {ask for _, ask in links} == {ask.place for ask in asks}
        assert all(batch.parent == "" and batch.trace not in {ask.trace for ask in asks} for batch in batches)
        assert max(len({trace for trace, _ in batch.links}) for batch in batches) > 1
        for batch in batches:
            assert batch.attributes["mlworker.batch_size"] == batch.attributes["mlworker.messages"]
            assert batch.end - batch.start >= 0.3e9
            for ask in asks:
                if ask.place in batch.links:
                    assert ask.start <= batch.start < batch.end <= ask.end + 5e6  # clocks are two
        # Tenants stand in traces; in metrics they would be as many series.
        assert not [tenant for tenant in tenants if tenant in numbers]

    play(story)


def test_a_message_that_is_given_up_says_why_in_its_trace_and_names_that_in_its_dead_letter(play, traces):
    async def story(site):
        await site.photo()
        fail = {"type": "step", "name": "fail", "kwargs": {"how": "permanent"}}
        async with site.worker(otel_exporter_otlp_endpoint=traces.url):
            site.publish(site.request(fail))
            site.publish(b"no message at all", googclient_traceparent=PARENT)
            await site.until_settled(2)
        assert site.reasons() == ["given_up"] * 2
        letters = {letter.attributes["mlworker-error-code"]: letter for letter in await site.dead_letters()}
        failed, malformed = (
            next(span for span in traces.named("process work") if span.error == code)
            for code in ("invalid_input", "malformed_message")
        )
        assert letters["invalid_input"].attributes["mlworker-trace-id"] == failed.trace
        assert failed.parent == ""  # nobody named one: it begins here
        assert failed.attributes["mlworker.outcome"] == "given_up"
        errors = {span.name: span.error for span in traces.of(failed.trace) if span.error}
        assert errors == {"process work": "invalid_input", "step fail": "invalid_input"}
        assert {"record", "publish dead letter", "publish results", "callback", "ack"} <= {
            span.name for span in traces.of(failed.trace)
        }
        # Also of what could not even be read, by the attribute of Pub/Sub's own client.
        assert (malformed.trace, malformed.parent) == (TRACE, PUBLISHER)
        assert letters["malformed_message"].attributes["mlworker-trace-id"] == TRACE
        assert site.broker.backlog(DEAD_SUB) == 0

    play(story)


def test_what_is_handed_back_has_failed_for_now(play, traces):
    async def story(site):
        await site.photo()
        fail = {"type": "step", "name": "fail", "kwargs": {"how": "transient", "times": 1}}
        async with site.worker(otel_exporter_otlp_endpoint=traces.url):
            site.publish(site.request(fail), traceparent=PARENT)
            await site.until_settled(1)
        names = {span.name: span for span in traces.of(TRACE)}
        assert names["process work"].error == "store_unavailable"
        assert names["hand back"].attributes["mlworker.delay_s"] == 10
        assert "ack" not in names

    play(story)


@pytest.mark.parametrize(
    ("sampler", "share", "parent", "is_traced"),
    [
        ("parentbased_traceidratio", 0.0, PARENT, True),
        ("parentbased_traceidratio", 0.0, "", False),
        ("parentbased_always_on", 1.0, f"{PARENT[:-2]}00", False),
        ("always_on", 1.0, f"{PARENT[:-2]}00", True),
        ("traceidratio", 0.0, PARENT, False),
    ],
)
def test_the_sampler_decides_which_messages_are_traced_and_the_trace_is_passed_on_all_the_same(
    play, traces, sampler, share, parent, is_traced
):
    async def story(site):
        await site.photo()
        told = {"otel_traces_sampler": sampler, "otel_traces_sampler_arg": share}
        async with site.worker(otel_exporter_otlp_endpoint=traces.url, **told):
            site.publish(site.request(LOOK), **({"traceparent": parent} if parent else {}))
            await site.until_settled(1)
        assert bool(traces.named("ack")) == bool(traces.spans) == is_traced
        [(_, _, headers, _)] = site.backend.calls
        if is_traced:
            assert headers["traceparent"] == traces.named("callback")[0].trace_parent
        else:
            assert headers.get("traceparent", "") == parent

    play(story)


def test_a_collector_that_does_not_answer_holds_the_drain_up_for_a_bounded_time(play, traces):
    async def story(site):
        await site.photo()
        traces.gate.clear()
        async with site.worker(otel_exporter_otlp_endpoint=traces.url):
            site.publish(site.request(LOOK), traceparent=PARENT)
            await site.until_settled(1)
            drained = time.monotonic()
        assert site.reasons() == ["succeeded"]
        assert FLUSH_SECONDS <= time.monotonic() - drained < 9  # the exporter itself would try for 10
        traces.gate.set()
        await asyncio.to_thread(wait_for, lambda: traces.requests)

    play(story)


def wait_for(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
