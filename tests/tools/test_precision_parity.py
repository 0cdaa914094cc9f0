"""What `fast` changes: measured here on two scenes, and on more for docs/precision.md."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tools.precision_page import FIGURES, PAGE, rendered
from tools.precision_parity import DTYPES, parity, runner, shipped, unseen

MODELS = shipped().models
ROWS: list[dict[str, Any]] = json.loads(FIGURES.read_text())

AT_LEAST = {"matched": 0.98, "mean_iou": 0.98, "mean_iou_for_a_box": 0.98, "agreement": 0.96}
AT_MOST = {"mean_score_difference": 0.01}


def assert_close(figures: dict[str, Any], spare: int = 0) -> None:
    """Of the things found, `spare` may be lost besides: scores that are all but the threshold's."""
    missing = spare / max(1, figures.get("things", 0))
    for name, least in AT_LEAST.items():
        assert figures.get(name, 1) >= (least - missing if name == "matched" else least), name
    for name, most in AT_MOST.items():
        assert figures.get(name, 0) <= most, name


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", MODELS)
def test_fast_answers_nearly_as_exact(name: str) -> None:
    model = MODELS[name]
    exact, fast = (runner(shipped(), model, dtype) for dtype in (None, torch.bfloat16))

    assert_close(parity(model, exact, fast, unseen(2, 360, 480)), spare=1)


def test_a_model_answers_as_itself() -> None:
    model = MODELS["species"]
    exact = runner(shipped(), model, None)

    figures = parity(model, exact, exact, unseen(1, 360, 480))

    assert figures["agreement"] == 1
    assert figures["largest_score_difference"] == 0


def test_the_page_has_the_figures_that_were_measured() -> None:
    assert PAGE.read_text() == rendered(PAGE.read_text(), ROWS), "run python -m tools.precision_parity --page"


def test_every_shipped_model_was_measured_in_all_sixteen_bits() -> None:
    measured = {(row["model"], row["sha256"], row["dtype"]) for row in ROWS}
    wanted = {
        (model.name, model.sha256, str(dtype).removeprefix("torch."))
        for model in MODELS.values()
        for dtype in DTYPES
    }

    assert measured == wanted, "the weights are others now: run python -m tools.precision_parity"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['model']}-{row['dtype']}")
def test_what_was_measured_is_close(row: dict[str, Any]) -> None:
    assert_close(row)
