"""Embeddings that several steps of one job use."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np
import pytest

from consumer.models.embeddings import JobEmbeddings
from pipeline_steps.artifacts import Pixels
from pipeline_steps.models import ImageEmbedding


def picture() -> Pixels:
    return np.zeros((4, 4, 3), np.uint8)


class Encoder:
    """Counts the pictures it was shown; takes a turn of the loop, and fails on demand."""

    def __init__(self) -> None:
        self.shown: list[int] = []
        self.failing = False

    async def embed(self, pictures: Sequence[Pixels]) -> list[ImageEmbedding]:
        self.shown.append(len(pictures))
        await asyncio.sleep(0)
        if self.failing:
            raise MemoryError
        return [object() for _ in pictures]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_a_second_step_finds_the_embedding_of_the_first() -> None:
    async def steps() -> None:
        encoder, kept, photo = Encoder(), JobEmbeddings(), picture()

        first = await kept.of("sam", [photo], encoder.embed)

        assert await kept.of("sam", [photo], encoder.embed) == first
        assert encoder.shown == [1]

    run(steps())


def test_equal_pixels_and_other_models_are_other_pictures() -> None:
    async def steps() -> None:
        encoder, kept, photo = Encoder(), JobEmbeddings(), picture()

        await kept.of("sam", [photo], encoder.embed)
        await kept.of("sam", [photo.copy()], encoder.embed)
        await kept.of("other", [photo], encoder.embed)

        assert encoder.shown == [1, 1, 1]

    run(steps())


def test_of_several_pictures_only_the_new_ones_are_embedded_each_once() -> None:
    async def steps() -> None:
        encoder, kept, photos = Encoder(), JobEmbeddings(), [picture() for _ in range(3)]

        (second,) = await kept.of("sam", photos[1:2], encoder.embed)
        found = await kept.of("sam", [*photos, photos[0]], encoder.embed)

        assert encoder.shown == [1, 2]
        assert found[1] is second
        assert found[0] is found[3]
        assert len({id(one) for one in found}) == 3

    run(steps())


def test_parallel_steps_wait_for_one_embedding() -> None:
    async def steps() -> None:
        encoder, kept, one, other = Encoder(), JobEmbeddings(), picture(), picture()

        asked = [[one, other], [other, one], [one], [other]]
        found = await asyncio.gather(*(kept.of("sam", some, encoder.embed) for some in asked))

        assert encoder.shown == [2]
        assert found[0] == found[1][::-1] == [*found[2], *found[3]]

    run(steps())


def test_what_failed_is_tried_again_by_the_next() -> None:
    async def steps() -> None:
        encoder, kept, photo = Encoder(), JobEmbeddings(), picture()
        encoder.failing = True
        with pytest.raises(MemoryError):
            await kept.of("sam", [photo], encoder.embed)
        encoder.failing = False

        assert len(await kept.of("sam", [photo], encoder.embed)) == 1
        assert encoder.shown == [1, 1]

    run(steps())


def test_only_the_last_few_are_kept() -> None:
    async def steps() -> None:
        encoder, kept, photos = Encoder(), JobEmbeddings(), [picture() for _ in range(6)]

        for photo in [*photos, photos[-1], photos[0]]:
            await kept.of("sam", [photo], encoder.embed)

        assert encoder.shown == [1] * 7

    run(steps())


def test_a_new_picture_at_the_place_of_one_that_is_gone_is_new() -> None:
    async def steps() -> None:
        encoder, kept = Encoder(), JobEmbeddings()
        for _ in range(50):  # so that the same address comes again
            await kept.of("sam", [picture()], encoder.embed)
            gc.collect(0)

        assert sum(encoder.shown) == 50

    run(steps())
