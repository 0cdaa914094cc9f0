from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.site import Site, open_site
from tests.end_to_end.steps import Toys, toy_steps


@dataclass(frozen=True, slots=True)
class Sizes:
    """Seconds that stories last."""

    pipeline: float
    outage: float


Story = Callable[[Site], Awaitable[None]]


@pytest.fixture
def toys() -> Toys:
    return toy_steps()


@pytest.fixture
def sizes(request: pytest.FixtureRequest) -> Sizes:
    """Long enough to outlast what must be outlasted, or with `--full-size` as long as we promise."""
    return Sizes(80, 60) if request.config.getoption("--full-size") else Sizes(12, 3)


@pytest.fixture
def play(tmp_path: Path, toys: Toys) -> Callable[[Story], None]:
    """Run a story on a site of its own."""

    def run(story: Story) -> None:
        async def whole() -> None:
            async with open_site(tmp_path, toys.registry) as site:
                await story(site)

        asyncio.run(whole())

    return run
