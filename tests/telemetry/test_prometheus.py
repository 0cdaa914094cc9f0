"""What a worker tells Prometheus, judged by Prometheus itself: the names of metrics, and exemplars."""

from __future__ import annotations

import asyncio
import subprocess
import time
from typing import Any

import httpx

from tests.end_to_end.site import PROJECT
from tests.monitoring.prometheus import scraping
from tests.monitoring.rules import tool
from tests.monitoring.test_dashboard_data import working


def test_promtool_has_nothing_against_the_metrics(play):
    command = [tool("promtool"), "check", "metrics"]
    told: list[str] = []

    async def story(site):
        async with working(site) as address, httpx.AsyncClient(trust_env=False) as client:
            await site.until_settled(6)
            told.append((await client.get(f"http://{address}/metrics")).text)

    play(story)
    assert told[0].count("# TYPE mlworker_") > 50
    done = subprocess.run(command, input=told[0], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    # It would have said so.
    wrong = "# TYPE mlworker_photos counter\nmlworker_photos 1\n"
    assert subprocess.run(command, input=wrong, capture_output=True, text=True, check=False).returncode


def test_prometheus_leads_from_a_number_to_its_trace(play, traces, tmp_path):
    tool("prometheus")

    async def story(site):
        await site.photo()
        told = {"otel_exporter_otlp_endpoint": traces.url}
        async with (
            site.worker(**told) as worker,
            scraping(tmp_path, {"mlworker": {"targets": [f"127.0.0.1:{worker.port}"]}}) as client,
        ):
            site.publish(site.request({"type": "step", "name": "look"}))
            await site.until_settled(1)
            found = await exemplars(client, "mlworker_message_seconds_bucket")
        [message] = traces.named("process work")
        assert found == {(message.trace, PROJECT)}

    play(story)


async def exemplars(client: httpx.AsyncClient, metric: str) -> set[tuple[str, str]]:
    """The traces, and their projects, that Prometheus has beside a metric, once it has any."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        asked: dict[str, Any] = {"query": metric, "start": time.time() - 300, "end": time.time() + 1}
        answer = (await client.get("/api/v1/query_exemplars", params=asked)).json()
        assert answer["status"] == "success", answer
        labels = [one["labels"] for series in answer["data"] for one in series["exemplars"]]
        if labels:
            return {(one["trace_id"], one["project_id"]) for one in labels}
        await asyncio.sleep(0.5)
    return set()
