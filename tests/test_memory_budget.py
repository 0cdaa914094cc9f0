"""Bytes of photos in hand: bounded, shared, and given back exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from consumer.memory_budget import Credit, MemoryBudget
from consumer.ops.memory_limit import memory_limit, photo_memory
from consumer.photo_size import decoding_bytes
from tests.pipeline_steps.image.picture_files import mosaic_jpeg


async def soon() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def waiting(budget: MemoryBudget, tenant: str, size: int, file: int = 0) -> tuple[Credit, asyncio.Task[None]]:
    credit = budget.note(tenant, file)
    return credit, asyncio.create_task(credit.grow(size))


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 10))


def test_a_file_counts_for_its_tenant_from_when_its_size_is_known_until_the_photo_is_done_with() -> None:
    budget = MemoryBudget(100)
    credit, others = budget.note("a"), budget.note("b", 7)

    credit.arrives(30)
    credit.arrives(20)  # it was replaced meanwhile
    assert (budget.held, budget.held_by("a"), budget.held_by("b")) == (27, 20, 7)

    credit.release()
    credit.arrives(30)  # a thread that was not waited for
    assert (budget.held, budget.held_by("a")) == (7, 0)
    others.release()
    assert budget.held == 0


def test_of_tenants_whose_photos_never_came_nothing_is_left() -> None:
    budget = MemoryBudget(100)

    for number in range(100):
        credit = budget.note(f"tenant {number}")
        credit.arrives(0)
        credit.release()

    assert not budget._held


def test_what_does_not_fit_waits_until_there_is_room() -> None:
    async def story() -> None:
        budget = MemoryBudget(100)
        first, _ = waiting(budget, "a", 60)
        _, second = waiting(budget, "b", 50)
        await soon()
        assert (budget.held, budget.waiting, second.done()) == (60, 1, False)

        first.release()
        first.release()  # once more does nothing
        await soon()

        assert (budget.held, second.done()) == (50, True)

    run(story)


def test_a_small_photo_does_not_wait_behind_another_tenants_large_ones() -> None:
    async def story() -> None:
        budget = MemoryBudget(100)
        large = [waiting(budget, "a", 30) for _ in range(10)]
        await soon()
        assert budget.held == 60  # a third one would go beyond three quarters
        _, small = waiting(budget, "b", 20)
        await soon()
        assert small.done()
        assert sum(task.done() for _, task in large) == 2
        for _, task in large:
            task.cancel()

    run(story)


def test_a_photo_larger_than_everything_is_let_in_alone() -> None:
    async def story() -> None:
        budget = MemoryBudget(100)
        small, _ = waiting(budget, "a", 10)
        giant, task = waiting(budget, "b", 500)
        after, following = waiting(budget, "c", 10)
        await soon()
        assert (task.done(), following.done()) == (False, False)  # nobody overtakes it
        small.release()
        await soon()
        assert (task.done(), following.done(), budget.held) == (True, False, 500)
        giant.release()
        await soon()
        assert following.done()
        after.release()
        assert budget.held == 0

    run(story)


def test_files_in_hand_count_but_never_keep_the_last_photo_out() -> None:
    async def story() -> None:
        budget = MemoryBudget(100)
        three = [waiting(budget, tenant, 30, file=70) for tenant in "abc"]
        await soon()
        assert budget.held == 3 * 70 + 30
        for credit, task in three:
            assert task.done()
            credit.shrink(30)  # the file is not needed any more
            credit.release()
            await soon()
        assert budget.held == 0

    run(story)


def test_whoever_is_cancelled_leaves_its_place_to_those_behind() -> None:
    async def story() -> None:
        budget = MemoryBudget(100)
        waiting(budget, "a", 50)
        blocking, blocked = waiting(budget, "b", 60)
        _, behind = waiting(budget, "c", 40)
        await soon()
        assert not behind.done()
        blocked.cancel()
        await soon()
        blocking.release()
        assert behind.done()
        assert budget.held == 90

    run(story)


def test_memory_is_taken_until_the_last_thread_that_looks_at_it_is_done() -> None:
    async def story() -> None:
        budget = MemoryBudget(100)
        credit = budget.note("a", 10)
        await credit.grow(50)
        threads = [asyncio.get_running_loop().create_future() for _ in range(2)]
        credit.release_after(threads)
        threads[0].set_exception(ValueError("late"))
        await soon()
        assert budget.held == 60
        threads[1].set_result(None)
        await soon()
        assert budget.held == 0

    run(story)


@settings(max_examples=150, deadline=None)
@given(
    limit=st.integers(1, 120),
    photos=st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.integers(0, 40),
            st.integers(1, 150),
            st.sampled_from(["done", "fails", "cancelled"]),
            st.integers(0, 6),
        ),
        max_size=25,
    ),
)
def test_whatever_happens_the_account_is_right_and_nobody_waits_for_ever(
    limit: int, photos: list[tuple[str, int, int, str, int]]
) -> None:
    async def story() -> None:
        budget = MemoryBudget(limit)
        decoded: list[int] = []

        async def photo(tenant: str, file: int, size: int, end: str, turns: int) -> None:
            credit = budget.note(tenant, file)
            try:
                await credit.grow(size)
                decoded.append(size)
                try:
                    assert len(decoded) == 1 or sum(decoded) <= limit
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    credit.shrink(size)
                    await asyncio.sleep(0)
                    if end == "fails":
                        raise ValueError("as told")
                finally:
                    decoded.remove(size)
            finally:
                credit.release()
                credit.release()

        tasks = [asyncio.create_task(photo(*it)) for it in photos]
        for (_, _, _, end, turns), task in zip(photos, tasks, strict=True):
            if end == "cancelled":
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (budget.held, budget.waiting) == (0, 0)

    run(story)


@pytest.mark.parametrize(
    ("image_format", "mode", "per_pixel"),
    [
        ("JPEG", "RGB", 3),
        ("PNG", "RGBA", 7),
        ("TIFF", "RGB", 11),
        ("WEBP", "RGB", 7),
        ("BMP", "RGB", 7),
        ("GIF", "L", 7),
    ],
)
def test_what_decoding_needs_is_known_from_the_header(image_format: str, mode: str, per_pixel: int) -> None:
    file = BytesIO()
    Image.new(mode, (60, 40)).save(file, image_format)

    assert decoding_bytes(file.getvalue(), 10_000) == 60 * 40 * per_pixel
    assert decoding_bytes(file.getvalue(), 100) == 0  # refused before anything is decoded


@pytest.mark.parametrize(
    ("mode", "options", "per_pixel"),
    [
        ("RGB", {"progressive": True, "subsampling": 0}, 3 + 2 * 3),
        ("RGB", {"progressive": True, "subsampling": 2}, 3 + 2 * 1.5),
        ("L", {"progressive": True}, 3 + 2),
        ("CMYK", {}, 11),
    ],
)
def test_of_some_jpegs_the_decoder_holds_more(mode: str, options: dict[str, Any], per_pixel: float) -> None:
    file = BytesIO()
    Image.new(mode, (64, 48)).save(file, "JPEG", **options)

    assert decoding_bytes(file.getvalue(), 10_000) == 64 * 48 * per_pixel


def test_coefficients_are_held_of_the_whole_picture_however_small_it_is_decoded() -> None:
    file = BytesIO()
    Image.new("RGB", (1600, 1200)).save(file, "JPEG", progressive=True, subsampling=0)

    assert decoding_bytes(file.getvalue(), 2_000_000, 100) == 200 * 150 * 3 + 1600 * 1200 * 3 * 2


def test_a_jpeg_that_is_left_to_pillow_is_decoded_whole() -> None:
    planes = [np.full(shape, 128, np.uint8) for shape in ((2, 3), (1, 1), (1, 1))]
    data = mosaic_jpeg(planes, [(3, 2), (1, 1), (1, 1)])

    assert decoding_bytes(data, 10_000, 1) == 24 * 16 * 7


def test_the_size_of_a_large_tiff_is_found_where_its_first_bytes_say_without_a_warning() -> None:
    file = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "TIFF", compression="tiff_deflate")  # its tables stand at the end

    assert decoding_bytes(file.getvalue(), 1_000_000) == 600 * 800 * 11


def test_the_size_of_a_heif_is_that_of_its_largest_part() -> None:
    def extent(width: int, height: int) -> bytes:
        return b"ispe\0\0\0\0" + width.to_bytes(4, "big") + height.to_bytes(4, "big")

    data = b"\0\0\0\x18ftypheic" + b"\0" * 40 + extent(512, 512) + b"\0" * 9 + extent(4032, 3024)

    assert decoding_bytes(data, 20_000_000) == 4032 * 3024 * 9


@pytest.mark.parametrize(
    "data", [b"", b"no picture", b"II*\x00\xff", b"\xff\xd8\xff\xe0", b"\0\0\0\x18ftypheic"]
)
def test_what_is_no_picture_needs_no_room(data: bytes) -> None:
    assert decoding_bytes(data, 10_000) == 0


def test_the_containers_limit_is_known(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) > 1 << 28  # the machine's
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) > 1 << 28
    (tmp_path / "memory.max").write_text("4000000000\n")
    assert memory_limit(tmp_path) == 4_000_000_000
    (tmp_path / "memory.max").unlink()
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory_limit(tmp_path) > 1 << 28
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("2000000000\n")
    assert memory_limit(tmp_path) == 2_000_000_000
    assert photo_memory(2_000_000_000) == 500_000_000
    assert np.iinfo(np.int64).max > photo_memory() > 0
