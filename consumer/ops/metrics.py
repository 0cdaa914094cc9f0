"""Prometheus metrics of a worker. Labels are bounded: no tenant, session or message is ever one.

`docs/metrics.md` lists them; `figures.py` reads them back, for benchmarks.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Summary
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from consumer.models.batch_info import BatchInfo, Ending
from consumer.ops.tracing import exemplar, recorded
from contracts import __version__

_SIZES = (1, 2, 4, 8, 16, 32, 64)
_WAITS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_ALERTED = ("given_up", "lease_lost", "partial", "succeeded")
_RUNS = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """The metrics of one worker, in a registry of its own.

    Args:
        project: Google's, in which its traces are.
    """

    def __init__(self, project: str = "") -> None:
        self._project = project
        self.registry = CollectorRegistry()
        count, spread = self._counter, self._histogram
        build = Info("mlworker_build", "What this worker is, always 1.", registry=self.registry)
        build.info({"version": __version__, "python": platform.python_version()})
        self._messages = count("messages", "Deliveries handled, by how they ended.", "outcome")
        # A counter that begins at 1 has not grown, for whoever asks for its increase.
        for outcome in _ALERTED:
            self._messages.labels(outcome)
        self._done = count("messages_done", "Messages acked: gone from the subscription.")
        self._seconds = spread("message_seconds", "From delivery to settling.", _RUNS)
        self._dead_letters = count("dead_letters", "Messages given up, by the code of the reason.", "code")
        self._warnings = count("message_warnings", "Unknown keys and settings in messages.")
        self._decode_wait = spread("decode_wait_seconds", "How long photos waited to be decoded.", _WAITS)
        self._decode = spread("decode_seconds", "How long decoding took.", _WAITS)

        self._device_busy = count("device_busy_seconds", "Time batches ran.", "model")
        self._device_overhead = count(
            "device_overhead_seconds", "Time a device stood idle although an item was there.", "model"
        )
        self._batch_sizes = spread("batch_size", "Items in a batch.", _SIZES, "model")
        self._batches = count(
            "batches", "Batches, by why they left and how they ended.", "model", "trigger", "ending"
        )
        self._batch_room = count("batch_room_items", "Items that batches could have had.", "model")
        self._padding = count(
            "batch_padding_items", "Of the items in batches, what padding amounts to.", "model"
        )
        self._oom_splits = count("oom_splits", "Batches of several items that memory ran out for.", "model")
        self._queue_wait = spread(
            "queue_wait_seconds", "How long items waited for a device.", _WAITS, "model"
        )
        self._batch_seconds = Summary(
            "mlworker_batch_seconds",
            "How long batches took, by size: of up to 1, 2, 4 ... items.",
            ["model", "size"],
            registry=self.registry,
        )

    def warned(self) -> None:
        """Count something odd in a message that was processed all the same."""
        self._warnings.inc()

    def delivery_ended(
        self, outcome: str, seconds: float, dead_letter: str = "", *, is_done: bool = False
    ) -> None:
        """Count a delivery; whether it was the last one; the code with which it was given up, if it was."""
        self._messages.labels(outcome).inc()
        self._done.inc(is_done)
        self._seconds.observe(seconds, exemplar(recorded(), self._project))
        if dead_letter:
            self._dead_letters.labels(dead_letter).inc()

    def photo_decoded(self, waited: float, seconds: float) -> None:
        """Count a photo. Called on any thread."""
        trace = exemplar(recorded(), self._project)
        self._decode_wait.observe(waited, trace)
        self._decode.observe(seconds, trace)

    def ran(self, batch: BatchInfo) -> None:
        """Count a batch. Called on its device's thread."""
        model = batch.model
        self._device_busy.labels(model).inc(batch.seconds)
        self._device_overhead.labels(model).inc(batch.overhead)
        self._batch_sizes.labels(model).observe(batch.size)
        self._batches.labels(model, batch.trigger, batch.ending).inc()
        self._batch_room.labels(model).inc(max(batch.most, batch.size))
        self._padding.labels(model).inc(batch.size * (1 - batch.fill))
        if batch.ending is Ending.OUT_OF_MEMORY and batch.size > 1:
            self._oom_splits.labels(model).inc()
        queue_wait = self._queue_wait.labels(model)
        for seconds, asker in zip(batch.waits, batch.askers, strict=True):
            queue_wait.observe(seconds, exemplar(asker, self._project))
        if batch.ending is Ending.ANSWERED:
            self._batch_seconds.labels(model, size_bucket(batch.size)).observe(batch.seconds)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Export a number that is read when it is scraped."""
        Gauge(f"mlworker_{name}", text, registry=self.registry).set_function(read)

    def watch_count(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Export a number that only grows, and is read when it is scraped."""
        self.registry.register(_Count(f"mlworker_{name}", text, read))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"mlworker_{name}_total", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"mlworker_{name}", text, labels, buckets=buckets, registry=self.registry)


def size_bucket(size: int) -> str:
    """Return the label of a batch's size: the power of two it does not exceed, so that there are few."""
    return str(min(1 << (size - 1).bit_length(), _SIZES[-1]))


class _Count(Collector):
    """A counter that somebody else keeps."""

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._name, self._text, self._read = name, text, read

    def describe(self) -> Sequence[Metric]:
        return [CounterMetricFamily(self._name, self._text)]

    def collect(self) -> Sequence[Metric]:
        return [CounterMetricFamily(self._name, self._text, value=self._read())]
