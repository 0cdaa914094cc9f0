"""What a worker tells about itself at /metrics, driven on a simulated device."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from consumer.models.batcher import Batcher
from consumer.models.device import DeviceThread
from consumer.models.simulated import SimulatedDevice, SimulatedRunner
from consumer.ops.figures import Figures, figures_in, figures_of
from consumer.ops.metrics import Metrics, size_bucket
from pipeline_steps.loading import load_steps
from tests.command import ROOT
from tests.end_to_end.test_fairness import MODEL

PAGE = ROOT / "docs" / "metrics.md"
FIND = {"type": "step", "name": "sahi_detection", "kwargs": {"model": "finder"}}


def figures_after(items: list[Any], **runner: Any) -> Figures:
    """Ask a simulated device about items, and return what the metrics say of it."""
    metrics, thread = Metrics(), DeviceThread(SimulatedDevice())
    before = figures_of(metrics.registry)
    batcher = Batcher(thread, on_batch=metrics.ran)

    async def ask() -> None:
        await asyncio.gather(batcher.submit("m", SimulatedRunner(**runner), items), return_exceptions=True)

    asyncio.run(ask())
    assert thread.close(10)
    return figures_of(metrics.registry) - before


def test_fill_is_the_share_of_what_batches_could_have_held() -> None:
    figures = figures_after(list(range(12)), largest=8)

    assert (figures.batches, figures.items, figures.batch_room) == (2, 12, 16)
    assert figures.batch_fill == 0.75
    assert figures.padding_waste == 0
    assert figures_after([]).batch_fill == 0


def test_padding_is_counted_in_items() -> None:
    assert figures_after(list(range(8)), fill=0.75).padding_waste == pytest.approx(0.25)


def test_batches_are_timed_by_their_size() -> None:
    figures = figures_after(list(range(11)), largest=8, per_item=0.002)

    assert set(figures.batch_seconds) == {("m", 8), ("m", 4)}
    assert figures.batch_time("m", 8) >= 0.016
    assert figures.batch_time("m", 1) == 0
    assert figures.busy_seconds == pytest.approx(sum(s for _, s in figures.batch_seconds.values()), rel=0.2)
    assert figures.busy_ratio(figures.busy_seconds * 2) == 0.5
    assert [size_bucket(size) for size in (1, 2, 3, 8, 9, 64, 500)] == ["1", "2", "4", "8", "16", "64", "64"]


def test_splits_for_want_of_memory_are_counted_apart_from_those_for_a_bad_item() -> None:
    assert figures_after(list(range(8)), memory=2).oom_splits == 3  # 8, and each of its halves
    assert figures_after(list(range(8)), bad={3}).oom_splits == 0


def test_waits_are_counted_for_every_item() -> None:
    figures = figures_after(list(range(12)), largest=4, fixed=0.05)

    assert figures.queue_wait.count == 12
    assert figures.queue_wait.quantile(0.3) <= 0.03 < figures.queue_wait.quantile(0.9)
    assert 0.03 < figures.queue_wait.mean < 1
    assert 0 <= figures.host_overhead < 0.05


def test_a_worker_tells_all_of_it_and_the_page_lists_exactly_that(play):
    async def story(site):
        site.steps = load_steps()
        (site.models / "models.yaml").write_text(MODEL.format(digest="0" * 64))
        await site.photo()
        devices = "simulated:fixed=0.02:memory=1"
        async with site.worker(devices=devices, model_path=str(site.models)) as running:
            url = f"http://127.0.0.1:{running.port}/metrics"
            async with httpx.AsyncClient(trust_env=False) as client:
                earlier = figures_in((await client.get(url)).text)
                began = time.monotonic()
                for _ in range(3):
                    site.publish(site.request(FIND))
                await site.until_settled(3)
                text = (await client.get(url)).text
            seconds = time.monotonic() - began
        assert site.reasons() == ["succeeded"] * 3
        figures = figures_in(text) - earlier
        assert figures.messages == 3
        assert figures.decode.count == figures.decode_wait.count == 3
        assert figures.photo_bytes == 0
        assert figures.items >= 3
        assert figures.batches - figures.oom_splits >= 3
        assert figures.busy_seconds >= 0.06
        assert 0 < figures.busy_ratio(seconds) <= 1
        assert listed(text) == PAGE.read_text().partition("\n|")[2].partition("\n\n")[0].splitlines()[2:], (
            "docs/metrics.md should list:\n" + "\n".join(listed(text))
        )

    play(story)


def listed(text: str) -> list[str]:
    """The rows of the page's table: what is exported, with its labels and help."""
    rows = []
    for family in text_string_to_metric_families(text):
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        labels = labels or sorted(_LABELS.get(family.name, ()))
        name = f"{family.name}_total" if family.type == "counter" else family.name
        rows.append(f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |")
    return sorted(row for row in rows if not re.search(r"_created`", row))


_LABELS = {"mlworker_dead_letters": ("code",)}
"""Of what has not happened, and so tells no labels."""
