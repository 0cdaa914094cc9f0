"""Whether what models answer are numbers: weights that have overflowed answer none.

Steps compare, cut and count what they are given, and what is no number is lost on the way: a photo of a
thousand plants would be a result of none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from consumer.models.runner import MaskFound
from pipeline_steps.errors import NotANumber
from pipeline_steps.models import LocalBoxes, LocalMasks, SketchedMasks


def require_numbers(model: str, answers: Iterable[Any]) -> None:
    """Return if every number in the answers is finite.

    Raises:
        NotANumber: one is not.
    """
    if not all(np.isfinite(numbers).all() for answer in answers for numbers in _numbers(answer)):
        raise no_numbers(model)


def no_numbers(model: str) -> NotANumber:
    """Return the error that says so, and where to look."""
    return NotANumber(
        f"model {model!r} answered what is no number: look at its weights, and at its `precision`"
    )


def _numbers(answer: Any) -> Iterator[Any]:
    match answer:
        case LocalBoxes() | LocalMasks():
            yield from (answer.xyxy, answer.score)
        case SketchedMasks() | MaskFound():
            yield answer.score
        case np.ndarray():
            yield answer
