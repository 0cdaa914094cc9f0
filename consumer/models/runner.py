"""What the pool asks of a loaded model, whatever its kind."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline_steps.artifacts import Mask
from pipeline_steps.models import ImageEmbedding, MaskQuality
from pipeline_steps.pictures import Picture

Item = TypeVar("Item", contravariant=True)
Ready = TypeVar("Ready")
Answer = TypeVar("Answer", covariant=True)


class Runner(Protocol[Item, Ready, Answer]):
    """A loaded model that answers batches.

    An item becomes *ready* off the device (resized, on the host), is put in a batch with others of its
    bucket, and is answered on the device's thread.
    """

    def costly(self, item: Item) -> bool:
        """Say whether `prepare` takes long enough to be worth a thread (a resize does, a view does not)."""
        ...

    def prepare(self, item: Item) -> Ready:
        """Make the item ready. Called on any thread; touches no device.

        Raises:
            InvalidInput: the model cannot be shown this.
        """
        ...

    def bucket(self, ready: Ready) -> Hashable:
        """Return what an item must have in common with those it shares a batch with, such as its shape."""
        ...

    def max_batch(self, bucket: Hashable) -> int:
        """Return how many items of the bucket may share a batch."""
        ...

    def run(self, batch: Sequence[Ready]) -> Sequence[Answer]:
        """Answer items of one bucket, one answer each, in order. Called on the device's thread only."""
        ...

    def warm_up(self) -> None:
        """Run a real forward pass for every batch size of `warm_up_sizes`, on the device's thread."""
        ...


AnyRunner = Runner[Any, Any, Any]


class Sought(NamedTuple):
    """A picture for a detector, and what is sought in it."""

    picture: Picture
    least: float
    """Boxes scored lower are not wanted."""


@runtime_checkable
class Pads(Protocol):
    """A runner whose items are padded to one shape."""

    def fill(self, batch: Sequence[Any]) -> float:
        """Return the items' share of what is computed for the batch; the rest is padding."""
        ...


@runtime_checkable
class Embeds(Protocol):
    """A runner that answers pictures with embeddings, which are asked about again."""

    def digest(self, ready: Any) -> bytes | None:
        """Return what equal pictures have in common and others have not; None of what is no picture."""
        ...


def batch_sizes(largest: int) -> Iterator[int]:
    """Yield 1, 2, 4 and so on, and `largest` itself."""
    size = 1
    while size < largest:
        yield size
        size *= 2
    yield largest


def warm_up_sizes(largest: int, device: str) -> Iterator[int]:
    """Yield the batch sizes a model is tried with before it answers anybody.

    A GPU chooses its ways by the size of a batch: there all of them. To a CPU one item shows them all.

    Args:
        largest: the most a batch may have.
        device: its type, `cpu` or `cuda`.
    """
    return batch_sizes(1 if device == "cpu" else largest)


class Prompt(NamedTuple):
    """One question to a `sam` model about a picture it has embedded."""

    embedding: ImageEmbedding
    at: npt.NDArray[np.floating[Any]]
    """A box (4,), a point (2,) or, for every good mask, points (n, 2): in the frame of what was embedded."""
    quality: MaskQuality | None = None
    """For points (n, 2): which masks are good. A chunk of points is one item: a unit of work that others can
    come between."""


POINTS_AT_ONCE = 4
"""Points of a grid that are one item: a tenth of a second of ViT-B on one core, then come others."""


class MaskFound(NamedTuple):
    """The answer to a box or a point."""

    mask: Mask
    score: float
    """The model's own estimate of the mask's IoU."""
