"""A worker's metrics as one typed value: what benchmarks and tests read, in this process or from /metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

_PREFIX = "mlworker_"


@dataclass(frozen=True, slots=True)
class Spread:
    """A histogram."""

    count: float
    seconds: float
    """The sum of what was observed."""
    up_to: Mapping[float, float]
    """How many observations were at most so long, by the buckets' upper ends."""

    @property
    def mean(self) -> float:
        """The average; 0 of nothing."""
        return self.seconds / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """Return an upper bound of the value that this share of observations stays below."""
        return next(
            (end for end, count in sorted(self.up_to.items()) if count >= share * self.count), math.inf
        )

    def __sub__(self, earlier: Spread) -> Spread:
        """Return what was observed in between."""
        up_to = {end: count - earlier.up_to.get(end, 0.0) for end, count in self.up_to.items()}
        return Spread(self.count - earlier.count, self.seconds - earlier.seconds, up_to)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a worker has done so far; take the difference of two to learn of the time between."""

    messages: float
    batches: float
    items: float
    batch_room: float
    padding: float
    """In items."""
    busy_seconds: float
    overhead_seconds: float
    oom_splits: float
    queue_wait: Spread
    decode_wait: Spread
    decode: Spread
    batch_seconds: Mapping[tuple[str, int], tuple[float, float]]
    """How many batches ran, and for how many seconds in all, by model and by the bound of their size."""
    photo_bytes: float
    """Just now."""

    @property
    def batch_fill(self) -> float:
        """Items in batches, as a share of those that could have been."""
        return self.items / self.batch_room if self.batch_room else 0.0

    @property
    def padding_waste(self) -> float:
        """The share of what was computed that was padding."""
        return self.padding / self.items if self.items else 0.0

    @property
    def host_overhead(self) -> float:
        """Seconds a device stood idle before a batch although an item was there, on average."""
        return self.overhead_seconds / self.batches if self.batches else 0.0

    def busy_ratio(self, seconds: float, devices: int = 1) -> float:
        """Return the share of these seconds that devices ran batches, of a difference of two figures."""
        return self.busy_seconds / (seconds * devices) if seconds else 0.0

    def batch_time(self, model: str, size: int) -> float:
        """Return the mean seconds of batches of the model, up to that size; 0 if there was none."""
        count, seconds = self.batch_seconds.get((model, size), (0.0, 0.0))
        return seconds / count if count else 0.0

    def __sub__(self, earlier: Figures) -> Figures:
        """Return what was done in between; what is so just now is taken from the later one."""
        times = {}
        for key, (count, seconds) in self.batch_seconds.items():
            before, seconds_before = earlier.batch_seconds.get(key, (0.0, 0.0))
            times[key] = count - before, seconds - seconds_before
        return Figures(
            self.messages - earlier.messages,
            self.batches - earlier.batches,
            self.items - earlier.items,
            self.batch_room - earlier.batch_room,
            self.padding - earlier.padding,
            self.busy_seconds - earlier.busy_seconds,
            self.overhead_seconds - earlier.overhead_seconds,
            self.oom_splits - earlier.oom_splits,
            self.queue_wait - earlier.queue_wait,
            self.decode_wait - earlier.decode_wait,
            self.decode - earlier.decode,
            MappingProxyType(times),
            self.photo_bytes,
        )


def figures_of(registry: CollectorRegistry) -> Figures:
    """Return the figures of a worker in this process."""
    return _read(registry.collect())


def figures_in(text: str) -> Figures:
    """Return the figures in what a worker answered at /metrics."""
    return _read(text_string_to_metric_families(text))


def _read(families: Iterable[Metric]) -> Figures:
    samples = [sample for family in families for sample in family.samples]

    def total(name: str) -> float:
        return sum(sample.value for sample in samples if sample.name == _PREFIX + name)

    def spread(name: str) -> Spread:
        up_to: dict[float, float] = {}
        for sample in samples:
            if sample.name == f"{_PREFIX}{name}_bucket":
                end = float(sample.labels["le"])
                up_to[end] = up_to.get(end, 0.0) + sample.value
        return Spread(total(f"{name}_count"), total(f"{name}_sum"), MappingProxyType(up_to))

    def by_size(name: str) -> dict[tuple[str, int], float]:
        found = (sample for sample in samples if sample.name == _PREFIX + name)
        return {(it.labels["model"], int(it.labels["size"])): it.value for it in found}

    seconds = by_size("batch_seconds_sum")
    return Figures(
        messages=total("messages_total"),
        batches=total("batches_total"),
        items=total("batch_size_sum"),
        batch_room=total("batch_room_items_total"),
        padding=total("batch_padding_items_total"),
        busy_seconds=total("device_busy_seconds_total"),
        overhead_seconds=total("device_overhead_seconds_total"),
        oom_splits=total("oom_splits_total"),
        queue_wait=spread("queue_wait_seconds"),
        decode_wait=spread("decode_wait_seconds"),
        decode=spread("decode_seconds"),
        batch_seconds=MappingProxyType(
            {key: (count, seconds[key]) for key, count in by_size("batch_seconds_count").items()}
        ),
        photo_bytes=total("photo_bytes"),
    )
