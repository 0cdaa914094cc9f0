"""Prometheus metrics of a worker. Labels are bounded: no tenant, session or message is ever one."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one worker, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._messages = Counter(
            "mlworker_messages_total",
            "Deliveries handled, by how they ended.",
            ["outcome"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "mlworker_message_seconds",
            "From delivery to settling.",
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800),
            registry=self.registry,
        )
        self._dead_letters = Counter(
            "mlworker_dead_letters_total",
            "Messages given up, by the code of the reason.",
            ["code"],
            registry=self.registry,
        )
        self._warnings = Counter(
            "mlworker_message_warnings_total",
            "Unknown keys and settings in messages.",
            registry=self.registry,
        )
        self._batches = Histogram(
            "mlworker_batch_size",
            "Items in a batch.",
            ["model"],
            buckets=_BATCH_SIZES,
            registry=self.registry,
        )
        self._device_seconds = Counter(
            "mlworker_device_busy_seconds_total", "Time batches ran.", ["model"], registry=self.registry
        )
        self._queue_seconds = Histogram(
            "mlworker_queue_wait_seconds",
            "How long a batch's oldest item waited.",
            ["model"],
            registry=self.registry,
        )

    def warned(self) -> None:
        """Count something odd in a message that was processed all the same."""
        self._warnings.inc()

    def delivery_ended(self, outcome: str, seconds: float, dead_letter: str = "") -> None:
        """Count a delivery, and the code with which it was given up, if it was."""
        self._messages.labels(outcome).inc()
        self._seconds.observe(seconds)
        if dead_letter:
            self._dead_letters.labels(dead_letter).inc()

    def batch_ran(self, model: str, size: int, seconds: float, waited: float) -> None:
        """Count a batch."""
        self._batches.labels(model).observe(size)
        self._device_seconds.labels(model).inc(seconds)
        self._queue_seconds.labels(model).observe(waited)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Export a number that is read when it is scraped."""
        Gauge(f"mlworker_{name}", text, registry=self.registry).set_function(read)
