"""Every panel has data while a worker works: asked of a worker's own /metrics, and of a real Prometheus.

Google's metrics are not there outside of Google Cloud: a stand-in exports them under their names. Which lines
of panels need them is said here.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from consumer.ops.health import serving
from pipeline_steps.loading import load_steps
from tests.end_to_end.conftest import play, toys
from tests.end_to_end.test_fairness import MODEL
from tests.monitoring.prometheus import scraping
from tests.monitoring.rules import SCALER, groups, metrics_in, queries, recorded, rules, tool

__all__ = ["play", "toys"]

FIND = {"type": "step", "name": "sahi_detection", "kwargs": {"model": "finder"}}
DETECT_NOBODY = {"type": "step", "name": "sahi_detection", "kwargs": {"model": "nobody"}}

NEED_GOOGLE = {
    "oldest message",
    "messages not acked",
    "wanted",
    "to protect",
    "dead letters waiting",
    "restarts in 30 minutes",
}
"""The lines of panels that have no data without Google's metrics."""

GOOGLES = """\
pubsub_googleapis_com:subscription_num_undelivered_messages{monitored_resource="pubsub_subscription",\
subscription_id="mlworker-requests"} 7
pubsub_googleapis_com:subscription_oldest_unacked_message_age{monitored_resource="pubsub_subscription",\
subscription_id="mlworker-requests"} 3
pubsub_googleapis_com:subscription_num_undelivered_messages{monitored_resource="pubsub_subscription",\
subscription_id="mlworker-dead-letters"} 1
pubsub_googleapis_com:subscription_oldest_unacked_message_age{monitored_resource="pubsub_subscription",\
subscription_id="mlworker-dead-letters"} 9
kubernetes_io:container_restart_count{monitored_resource="k8s_container",namespace_name="mlworker",\
container_name="mlworker"} 0
"""


def needs_google(name: str) -> bool:
    """Whether a metric that a rule records is made of Google's; of some others' the rule can do without."""
    found = [rule["expr"] for rule in rules(SCALER) if rule["record"] == name]
    return any("_googleapis_com:" in it or "kubernetes_io:" in it for it in found) or any(
        needs_google(inner) for it in found for inner in metrics_in(it) & recorded() if not _has_a_guess(name)
    )


def _has_a_guess(name: str) -> bool:
    return name == "mlworker:device_seconds_per_message"


@asynccontextmanager
async def working(site: Any) -> AsyncIterator[str]:
    """A worker on a simulated device that does messages without pause, one of three in vain; its address."""
    site.steps = load_steps()
    (site.models / "models.yaml").write_text(MODEL.format(digest="0" * 64))
    await site.photo()

    async def publish() -> None:
        while True:
            for step in (FIND, FIND, DETECT_NOBODY):
                site.publish(site.request(step))
            await asyncio.sleep(0.5)

    devices = "simulated:fixed=0.02"
    async with site.worker(devices=devices, model_path=str(site.models), brake_dead_letters=0) as running:
        publishing = asyncio.create_task(publish())
        try:
            yield f"127.0.0.1:{running.port}"
        finally:
            publishing.cancel()
            with suppress(asyncio.CancelledError):
                await publishing


async def until(condition: Callable[[], Awaitable[str]], seconds: float) -> None:
    """Wait until nothing is missing any more."""
    end = time.monotonic() + seconds
    while missing := await condition():
        assert time.monotonic() < end, f"after {seconds:g} s there is no data for {missing}"
        await asyncio.sleep(0.5)


def test_every_metric_of_the_dashboard_that_is_a_workers_has_data_in_a_local_run(play):
    async def story(site):
        async with working(site) as address, httpx.AsyncClient(trust_env=False) as client:
            await site.until_settled(6)
            text = (await client.get(f"http://{address}/metrics")).text
        told = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
        of_rules = {rule["record"]: metrics_in(rule["expr"]) for rule in rules(SCALER)}

        for query in queries():
            for metric in metrics_in(query.expression):
                assert metric in told or metric in of_rules, f"{query.panel}: {metric}"
        needed = {inner for names in of_rules.values() for inner in names if inner.startswith("mlworker_")}
        assert needed <= told

    play(story)


def test_the_lines_that_need_googles_metrics_are_these():
    found = {
        query.legend for query in queries() if any(needs_google(it) for it in metrics_in(query.expression))
    }

    assert found == NEED_GOOGLE


def test_every_query_has_data_in_a_prometheus_that_scrapes_a_worker(play, tmp_path):
    tool("prometheus")

    async def story(site):
        async with serving(_google(), "127.0.0.1", 0) as exporter, working(site) as worker:
            jobs = {
                "mlworker": {"targets": [worker], "labels": {"namespace": "mlworker"}},
                "google": {"targets": [f"127.0.0.1:{exporter}"]},
            }
            async with scraping(tmp_path, jobs, groups(SCALER)) as client:
                await until(lambda: _missing(client), 60)

    play(story)


def _google() -> Starlette:
    async def metrics(request: Request) -> Response:
        del request
        return Response(GOOGLES, media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", metrics)])


async def _missing(client: httpx.AsyncClient) -> str:
    missing = []
    for query in queries():
        answer = await client.get("/api/v1/query", params={"query": query.expression})
        assert answer.status_code == 200, answer.text
        values = [float(sample["value"][1]) for sample in answer.json()["data"]["result"]]
        if not values or all(math.isnan(value) for value in values):
            missing.append(f"{query.panel} ({query.legend}): {query.expression}")
    return "\n".join(missing)
