"""What tests of steps start from."""

from __future__ import annotations

import pytest

from tests.pipeline_steps.fakes import MemoryStore, SeeingModels


@pytest.fixture
def models() -> SeeingModels:
    return SeeingModels()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()
