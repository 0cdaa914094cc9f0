"""What `sam` models made of pictures, for those who ask about the same pictures again.

Steps of one job ask about the same array, which nobody writes into: that is seen at once. Another job shows
the model the same pixels anew: another pipeline about the photo, a replay, a second try. That is seen by a
digest of what the encoder would be shown. Only a tenant's own jobs find what it asked for.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pipeline_steps.models import ImageEmbedding
from pipeline_steps.pictures import Picture

_OF_A_JOB = 4
"""12 MB each for segment-anything's own sizes."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Make = Callable[[Sequence[Item]], Awaitable[list[Answer]]]


@dataclass(slots=True, eq=False)
class _Making(Generic[Answer]):
    """Answers that somebody has asked for."""

    made: dict[Hashable, Answer] = field(default_factory=dict)
    """Empty if that failed."""
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Recent(Generic[Answer]):
    """The last answers, by what was asked. Whoever asks for what is being made waits for it.

    Args:
        most: what they may weigh together; the oldest go.
        weigh: what an answer weighs.
    """

    def __init__(self, most: int, weigh: Callable[[Answer], int] = lambda _: 1) -> None:
        self._most = most
        self._weigh = weigh
        self.found = 0
        """How often what was asked for was kept, or being made."""
        self._kept: OrderedDict[Hashable, Answer] = OrderedDict()
        self._making: dict[Hashable, _Making[Answer]] = {}

    async def of(
        self, keys: Sequence[Hashable], items: Sequence[Item], make: Make[Item, Answer]
    ) -> list[Answer]:
        """Return the answer to each item, in order; those that are not kept are made, each key's once.

        Raises:
            Exception: from `make`; nothing is kept then, and whoever waited makes it.
        """
        asked = dict(zip(keys, items, strict=True))
        kept = self._kept  # another thread may clear it
        found = {key: kept[key] for key in asked if key in kept}
        others = {key: self._making[key] for key in asked.keys() - found if key in self._making}
        mine = await self._made(_without(asked, found | others), make)
        for key, making in others.items():
            await making.done.wait()
            if key in making.made:
                found[key] = making.made[key]
        self.found += len(found)
        # What failed for others is not waited for again: all who waited make it, at once.
        mine |= await self._made(_without(asked, found | mine), make)
        self._keep(found)
        return [found[key] if key in found else mine[key] for key in keys]

    def clear(self) -> bool:
        """Keep nothing any more; return whether anything was. Any thread may ask."""
        kept, self._kept = self._kept, OrderedDict()
        return bool(kept)

    async def _made(self, items: Mapping[Hashable, Item], make: Make[Item, Answer]) -> dict[Hashable, Answer]:
        if not items:
            return {}
        making = _Making[Answer]()
        self._making |= dict.fromkeys(items, making)
        try:
            making.made |= zip(items, await make(list(items.values())), strict=True)
            self._keep(making.made)
        finally:
            for key in items:
                if self._making.get(key) is making:
                    del self._making[key]
            making.done.set()
        return dict(making.made)

    def _keep(self, answers: Mapping[Hashable, Answer]) -> None:
        kept = self._kept
        for key, answer in answers.items():
            kept[key] = answer
            kept.move_to_end(key)
        weight = sum(map(self._weigh, kept.values()))
        while weight > self._most:
            weight -= self._weigh(kept.popitem(last=False)[1])


def _without(asked: Mapping[Hashable, Item], others: Collection[Hashable]) -> dict[Hashable, Item]:
    return {key: item for key, item in asked.items() if key not in others}


class _Same:
    """A picture as a key: equal to itself alone, and to nothing once it is gone."""

    __slots__ = ("_id", "_picture")

    def __init__(self, picture: Picture) -> None:
        self._id = id(picture)
        self._picture = weakref.ref(picture)

    def __hash__(self) -> int:
        return self._id

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same):
            return NotImplemented
        picture = self._picture()
        return picture is not None and picture is other._picture()


class JobEmbeddings:
    """Those of one job, by the picture itself: a picture that nobody else needs is not kept for them."""

    def __init__(self) -> None:
        self._recent = Recent[ImageEmbedding](_OF_A_JOB)

    async def of(
        self, model: str, pictures: Sequence[Picture], embed: Make[Picture, ImageEmbedding]
    ) -> list[ImageEmbedding]:
        """Return each picture's embedding by the model of that name, in order.

        Raises:
            Exception: from `embed`.
        """
        return await self._recent.of([(model, _Same(picture)) for picture in pictures], pictures, embed)


@dataclass(frozen=True, slots=True)
class _Shown:
    tenant: Hashable
    model: str
    digest: bytes


class KeptEmbeddings:
    """Those that jobs leave to each other, by what the encoder is shown.

    Args:
        most: bytes they may take, on the models' devices; what is larger is not kept.
    """

    def __init__(self, most: int) -> None:
        self._recent = Recent[Any](most, lambda embedding: int(embedding.nbytes))

    async def of(
        self,
        tenant: Hashable,
        model: str,
        digests: Sequence[bytes],
        ready: Sequence[Item],
        embed: Make[Item, Any],
    ) -> list[Any]:
        """Return the embedding of each picture that is ready to be shown, in order.

        Raises:
            Exception: from `embed`.
        """
        return await self._recent.of([_Shown(tenant, model, digest) for digest in digests], ready, embed)

    @property
    def found(self) -> int:
        """How often a picture had been embedded for another job already."""
        return self._recent.found

    def clear(self) -> bool:
        """Drop all, and return whether there were any: a device is full, or a model comes or goes.

        Any thread may ask.
        """
        return self._recent.clear()
