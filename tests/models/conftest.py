"""What the tests of models share; `random_models.py` holds what they are made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.models.random_models import ModelFolder


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # on a busy machine a second thread is mostly waited for
    with torch.inference_mode():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return ModelFolder(tmp_path)
