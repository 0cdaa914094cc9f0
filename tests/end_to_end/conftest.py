from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.end_to_end.site import Site, open_site
from tests.end_to_end.steps import Toys, toy_steps

Story = Callable[[Site], Awaitable[None]]


@pytest.fixture
def toys() -> Toys:
    return toy_steps()


@pytest.fixture
def play(tmp_path: Path, toys: Toys) -> Callable[[Story], None]:
    """Run a story on a site of its own."""

    def run(story: Story) -> None:
        async def whole() -> None:
            async with open_site(tmp_path, toys.registry) as site:
                await story(site)

        asyncio.run(whole())

    return run
