"""What is told of every batch, for metrics and traces."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consumer.ops.tracing import Span


class Trigger(StrEnum):
    """Why a batch left with the items it had."""

    FULL = "full"
    """It was as large as the model, or the memory, allows."""
    FREE = "free"
    """The device was free and took all that waited."""
    SPLIT = "split"
    """It is half of a batch that failed."""


class Ending(StrEnum):
    """What became of a batch."""

    ANSWERED = "answered"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """One batch that ran."""

    model: str
    bucket: Hashable
    size: int
    most: int
    """Items the model would have taken."""
    trigger: Trigger
    ending: Ending
    seconds: float
    """On the device, successful or not."""
    waits: Sequence[float]
    """For how many seconds each of its items had waited when it began."""
    overhead: float
    """For how many seconds the device had stood idle although an item was there."""
    fill: float
    """The items' share of what was computed; the rest is padding."""
    askers: Sequence[Span | None]
    """What each of its items was asked in, where that is recorded."""
