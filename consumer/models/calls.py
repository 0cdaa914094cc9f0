"""The calls of `pipeline_steps.models.Models`, all made of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from consumer.models.embeddings import JobEmbeddings
from consumer.models.runner import POINTS_AT_ONCE, MaskFound, Prompt, Sought
from pipeline_steps.artifacts import Boxes
from pipeline_steps.errors import InvalidInput
from pipeline_steps.models import (
    CLASSIFIERS,
    ImageEmbedding,
    LocalBoxes,
    LocalMasks,
    MaskQuality,
    ModelKind,
    ModelSpec,
    SketchedMasks,
)
from pipeline_steps.pictures import Picture


class ModelCalls(ABC):
    """`Models`, for whoever can answer some items with a model of some kind."""

    @abstractmethod
    def spec(self, name: str) -> ModelSpec:
        """Return what the manifest says of the model."""

    @abstractmethod
    async def _ask(self, name: str, kinds: Sequence[ModelKind], items: Sequence[Any]) -> list[Any]:
        """Return the model's answer to each item, in order."""

    async def detect(self, name: str, images: Sequence[Picture], least: float = 0.0) -> list[LocalBoxes]:
        """Return what a `detection` model finds in each image, sorted by descending score.

        Boxes scored under both the manifest's threshold and 0.05 are left out. What is scored lower than
        `least` may be: the choice is the step's, but the model has less to do.
        """
        sought = [Sought(image, least) for image in images] if least > 0 else images
        return await self._ask(name, [ModelKind.DETECTION], sought)

    async def classify(self, name: str, images: Sequence[Picture]) -> list[npt.NDArray[np.float32]]:
        """Return each image's probabilities over the model's classes, (classes,), summing to 1."""
        return await self._ask(name, CLASSIFIERS, images)

    async def instances(self, name: str, images: Sequence[Picture]) -> list[LocalMasks]:
        """Return the masks an `instance` model finds in each image, sorted by descending score."""
        return await self._ask(name, [ModelKind.INSTANCE], images)

    async def semantic(self, name: str, images: Sequence[Picture]) -> list[npt.NDArray[np.int16]]:
        """Return each image's class per pixel, (height, width): an index into `classes`, -1 for none."""
        return await self._ask(name, [ModelKind.SEMANTIC], images)

    async def embed(self, name: str, images: Sequence[Picture]) -> list[ImageEmbedding]:
        """Return each image as a `sam` model sees it, to be prompted by `masks_of_boxes` and the like."""
        return await self._embeddings.of(name, images, partial(self._ask, name, [ModelKind.SAM]))

    async def masks_of_boxes(self, name: str, embedding: ImageEmbedding, boxes: Boxes) -> LocalMasks:
        """Return the best mask for each box (in the frame of the embedded image), in order."""
        return await self._masks(name, embedding, boxes, 4)

    async def masks_of_points(
        self, name: str, embedding: ImageEmbedding, points: npt.NDArray[np.float32]
    ) -> LocalMasks:
        """Return the best of the three masks for each point (n, 2), in order."""
        return await self._masks(name, embedding, points, 2)

    async def every_mask_of_points(
        self,
        name: str,
        embedding: ImageEmbedding,
        points: npt.NDArray[np.float64],
        quality: MaskQuality,
    ) -> SketchedMasks:
        """Return those of the three masks of each point (n, 2) that are good, in the points' order."""
        if points.ndim != 2 or points.shape[1] != 2:
            raise InvalidInput(f"model {name!r}: expected points of (n, 2), got {points.shape}")
        chunks = [points[start : start + POINTS_AT_ONCE] for start in range(0, len(points), POINTS_AT_ONCE)]
        found: list[SketchedMasks] = await self._ask(
            name, [ModelKind.SAM], [Prompt(embedding, chunk, quality) for chunk in chunks]
        )
        return SketchedMasks.joined(found)

    @cached_property
    def _embeddings(self) -> JobEmbeddings:
        return JobEmbeddings()

    async def _masks(
        self, name: str, embedding: ImageEmbedding, prompts: npt.NDArray[np.float32], columns: int
    ) -> LocalMasks:
        if prompts.ndim != 2 or prompts.shape[1] != columns:
            raise InvalidInput(f"model {name!r}: expected prompts of (n, {columns}), got {prompts.shape}")
        found: list[MaskFound] = await self._ask(
            name, [ModelKind.SAM], [Prompt(embedding, prompt) for prompt in prompts]
        )
        edges = [(m.x, m.y, m.x + m.bits.shape[1], m.y + m.bits.shape[0]) for m, _ in found]
        return LocalMasks(
            tuple(mask for mask, _ in found),
            np.array([score for _, score in found], np.float32),
            np.full(len(found), "", np.str_),
            np.array(edges, np.float32).reshape(-1, 4),
        )
