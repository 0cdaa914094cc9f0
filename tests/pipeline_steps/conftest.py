"""What tests of steps start from."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.pipeline_steps.fakes import MemoryStore, SeeingModels

# A slow machine is no failure: pytest's own timeout ends what hangs.
settings.register_profile("steps", deadline=None)
settings.load_profile("steps")


@pytest.fixture
def models() -> SeeingModels:
    return SeeingModels()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()
