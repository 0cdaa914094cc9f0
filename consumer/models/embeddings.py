"""What `sam` models made of a job's pictures, for the steps that ask about the same picture again.

A picture is known by being the same array: nobody writes into a picture, and comparing 48 megapixels would
cost time. Nothing is kept across jobs, by a digest say: a photo hardly ever comes twice within the minutes
that memory could hold it, a result that was recorded is not computed again, and tenants share nothing.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple

from pipeline_steps.models import ImageEmbedding
from pipeline_steps.pictures import Picture

_MOST = 4
"""12 MB each for segment-anything's own sizes."""

Embed = Callable[[Sequence[Picture]], Awaitable[list[ImageEmbedding]]]
_Key = tuple[str, int]


class _Kept(NamedTuple):
    picture: weakref.ref[Picture]
    """Weak: a picture that nobody else needs goes, and its embedding is not asked for again."""
    embedding: ImageEmbedding


class RecentEmbeddings:
    """The last few embeddings of one job."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._locks: weakref.WeakValueDictionary[_Key, asyncio.Lock] = weakref.WeakValueDictionary()

    async def of(self, model: str, pictures: Sequence[Picture], embed: Embed) -> list[ImageEmbedding]:
        """Return each picture's embedding, in order; those that are not kept are made.

        Parallel steps that ask about one picture wait for the first of them.

        Args:
            model: the model's name.
            pictures: what is asked about.
            embed: makes embeddings.

        Raises:
            Exception: from `embed`; nothing is kept then.
        """
        keys = [(model, id(picture)) for picture in pictures]
        async with AsyncExitStack() as held:
            for key in sorted(set(keys)):  # in one order everywhere, or two could wait for each other
                await held.enter_async_context(self._locks.setdefault(key, asyncio.Lock()))
            missing = {
                key: picture
                for key, picture in zip(keys, pictures, strict=True)
                if key not in self._kept or self._kept[key].picture() is not picture
            }
            known = {key: self._kept[key].embedding for key in keys if key not in missing}
            if missing:
                made = await embed(list(missing.values()))
                known |= dict(zip(missing, made, strict=True))
        for key, picture in zip(keys, pictures, strict=True):
            self._kept[key] = _Kept(weakref.ref(picture), known[key])
            self._kept.move_to_end(key)
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        return [known[key] for key in keys]
