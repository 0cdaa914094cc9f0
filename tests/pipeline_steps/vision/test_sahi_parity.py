"""Merging and tiles against SAHI's own, as it answered once and, where it is installed, as it answers now."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pipeline_steps.geometry import tiles
from pipeline_steps.models import LocalBoxes
from pipeline_steps.vision.merging import merged
from tests.pipeline_steps.vision.ask_sahi import (
    ANSWERS,
    CUTS,
    METHODS,
    METRICS,
    NAMES,
    QUESTIONS,
    Cut,
    Question,
    Row,
    sahi_merged,
    sahi_tiles,
    scene,
)

KNOWN: dict[str, Any] = json.loads(ANSWERS.read_text())


def ours(rows: list[Row], question: Question) -> list[Row]:
    columns = np.array(rows, np.float32).reshape(-1, 6)
    boxes = LocalBoxes(columns[:, :4], columns[:, 4], np.array(NAMES)[columns[:, 5].astype(int)])
    found = merged(
        boxes,
        question.method,  # type: ignore[arg-type]
        question.metric,  # type: ignore[arg-type]
        question.threshold,
        class_agnostic=question.class_agnostic,
    )
    kinds = [NAMES.index(name) for name in found.label.tolist()]
    return sorted(
        (*box, score, kind)
        for box, score, kind in zip(found.xyxy.tolist(), found.score.tolist(), kinds, strict=True)
    )


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: "-".join(map(str, question)))
def test_boxes_are_merged_as_sahi_merged_them(question: Question) -> None:
    for asked in KNOWN["scenes"]:
        (expected,) = (answer[4] for answer in asked["merged"] if answer[:4] == list(question))
        assert ours(asked["boxes"], question) == [tuple(row) for row in expected]


@pytest.mark.parametrize("known", KNOWN["tiles"], ids=lambda known: "x".join(map(str, known[:4])))
def test_pictures_are_cut_as_sahi_cut_them(known: list[Any]) -> None:
    *cut, expected = known
    assert tiles(*cut).tolist() == expected


def test_sahis_answers_are_to_these_questions() -> None:
    assert [scene["boxes"] for scene in KNOWN["scenes"]] == [
        [list(row) for row in scene(seed)] for seed in range(len(KNOWN["scenes"]))
    ]
    assert [Cut(*known[:5]) for known in KNOWN["tiles"]] == CUTS


@pytest.mark.parametrize("seed", range(20))
def test_boxes_are_merged_as_the_installed_sahi_merges_them(seed: int) -> None:
    pytest.importorskip("sahi", reason="SAHI brings OpenCV, so it is no dependency: pip install sahi")
    rng = np.random.default_rng(seed)
    rows = scene(100 + seed, boxes=int(rng.integers(1, 63)))
    for method in METHODS:
        for metric in METRICS:
            question = Question(method, metric, float(rng.uniform(0.1, 0.9)), bool(seed % 3))
            assert ours(rows, question) == sahi_merged(rows, question)


@pytest.mark.parametrize("seed", range(20))
def test_pictures_are_cut_as_the_installed_sahi_cuts_them(seed: int) -> None:
    pytest.importorskip("sahi", reason="SAHI brings OpenCV, so it is no dependency: pip install sahi")
    rng = np.random.default_rng(seed)
    for _ in range(20):
        sides = rng.integers(64, 1500, 4).tolist()
        cut = Cut(*sides, overlap=float(rng.uniform(0, 0.9)))
        assert tiles(*cut).tolist() == sahi_tiles(cut)
