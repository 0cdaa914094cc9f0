"""What pretended models answer: made up from the picture's size alone, in the types of the real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from consumer.models.runner import MaskFound, Prompt
from pipeline_steps.artifacts import Mask
from pipeline_steps.models import Drawing, LocalBoxes, LocalMasks, ModelKind, ModelSpec, SketchedMasks
from pipeline_steps.pictures import Picture

_SCORE = 0.9
_POINT_RADIUS = 8.0


@dataclass(frozen=True, eq=False, slots=True)
class SimulatedEmbedding:
    """A picture as a pretended `sam` model has seen it."""

    maker: object
    height: int
    width: int


def boxes(spec: ModelSpec, found: int, picture: Picture) -> LocalBoxes:
    """Return `found` boxes side by side, of all classes in turn."""
    height, width = picture.shape[:2]
    edges = np.linspace(0, width, found + 1, dtype=np.float32)
    xyxy = np.zeros((found, 4), np.float32)
    xyxy[:, 0], xyxy[:, 2], xyxy[:, 3] = edges[:-1], edges[1:], height
    labels = np.array([spec.classes[row % len(spec.classes)] for row in range(found)], np.str_)
    return LocalBoxes(xyxy, np.full(found, _SCORE, np.float32), labels)


def masks(spec: ModelSpec, found: int, picture: Picture) -> LocalMasks:
    """Return the same boxes as masks that fill them."""
    these = boxes(spec, found, picture)
    height, width = picture.shape[:2]
    filled = tuple(_filled(box, height, width) for box in these.xyxy)
    return LocalMasks(filled, these.score, these.label, these.xyxy)


def class_map(spec: ModelSpec, found: int, picture: Picture) -> npt.NDArray[np.int16]:
    """Return the first class on the left half, the background on the right."""
    del spec, found
    height, width = picture.shape[:2]
    labels = np.full((height, width), -1, np.int16)
    labels[:, : width // 2] = 0
    return labels


def probabilities(spec: ModelSpec, found: int, picture: Picture) -> npt.NDArray[np.float32]:
    """Return that it is the first class, fairly surely."""
    del found, picture
    answer = np.full(len(spec.classes), (1 - _SCORE) / max(len(spec.classes) - 1, 1), np.float32)
    answer[0] = _SCORE if len(spec.classes) > 1 else 1.0
    return answer


def mask_at(prompt: Prompt) -> MaskFound:
    """Return the box that was asked about, or a square around the point, as a mask that fills it."""
    seen = prompt.embedding
    if not isinstance(seen, SimulatedEmbedding):
        raise TypeError(f"expected an embedding of a simulated sam model, got {type(seen).__name__}")
    at = prompt.at
    box = at if len(at) == 4 else np.concatenate([at - _POINT_RADIUS, at + _POINT_RADIUS])
    return MaskFound(_filled(box, seen.height, seen.width), _SCORE)


def masks_at(prompt: Prompt) -> SketchedMasks:
    """Return one mask for each of the points, as `mask_at` does."""
    found = [mask_at(Prompt(prompt.embedding, point)) for point in prompt.at]
    return SketchedMasks(
        tuple(Drawing(mask) for mask, _ in found),
        np.array([score for _, score in found], np.float32),
        np.ones(len(found), np.float32),
        prompt.at.astype(np.float64),
    )


Answer = Callable[[Any], Any]

_BY_KIND: Mapping[ModelKind, Callable[[ModelSpec, int, Picture], Any]] = MappingProxyType(
    {
        ModelKind.DETECTION: boxes,
        ModelKind.INSTANCE: masks,
        ModelKind.SEMANTIC: class_map,
        ModelKind.CLASSIFICATION: probabilities,
        ModelKind.TORCHSCRIPT: probabilities,
    }
)


def without_numbers(answer: Any) -> Any:
    """Return boxes, or probabilities, none of which is a number, as of weights that have overflowed."""
    match answer:
        case LocalBoxes() | LocalMasks():
            return replace(answer, xyxy=np.full_like(answer.xyxy, np.nan))
        case np.ndarray() if answer.dtype == np.float32:
            return np.full_like(answer, np.nan)
        case _:
            return answer


def answers(spec: ModelSpec, found: int, maker: object) -> Answer | None:
    """Return what answers one item in place of the model; None for a kind that nothing runs.

    Args:
        spec: what the manifest says of the model.
        found: how many things are found on every picture.
        maker: the runner, which owns its embeddings.
    """
    if spec.kind is ModelKind.SAM:
        return partial(_segment, maker)
    by_kind = _BY_KIND.get(spec.kind)
    return partial(by_kind, spec, found) if by_kind else None


def _segment(maker: object, item: Picture | Prompt) -> SimulatedEmbedding | MaskFound | SketchedMasks:
    if isinstance(item, Prompt):
        return mask_at(item) if item.quality is None else masks_at(item)
    return SimulatedEmbedding(maker, *item.shape[:2])


def _filled(box: npt.NDArray[np.float32], height: int, width: int) -> Mask:
    """Return the box, cut to the picture, as a mask; at least one pixel."""
    left, right = (int(min(max(edge, 0), width)) for edge in (box[0], box[2]))
    top, bottom = (int(min(max(edge, 0), height)) for edge in (box[1], box[3]))
    left, top = min(left, width - 1), min(top, height - 1)
    return Mask(np.ones((max(bottom - top, 1), max(right - left, 1)), np.bool_), left, top)
