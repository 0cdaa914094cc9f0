"""The models of one run: the pool's, with a note of which of them took part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from contracts.result import ModelUsed
from pipeline_steps.artifacts import Boxes
from pipeline_steps.models import (
    ImageEmbedding,
    LocalBoxes,
    LocalMasks,
    MaskQuality,
    Models,
    ModelSpec,
    SketchedMasks,
)
from pipeline_steps.pictures import Picture


@dataclass
class ModelsUsed:
    """Passes every call on, and remembers the model's name."""

    models: Models
    _used: dict[str, ModelSpec] = field(default_factory=dict)

    def report(self) -> tuple[ModelUsed, ...]:
        """Return the models that were called, by name."""
        return tuple(
            ModelUsed(name=name, version=spec.version, sha256=spec.sha256, precision=spec.precision.value)
            for name, spec in sorted(self._used.items())
        )

    def spec(self, name: str) -> ModelSpec:
        """Return what the manifest says; asking is not using."""
        return self.models.spec(name)

    async def detect(self, name: str, images: Sequence[Picture], least: float = 0.0) -> list[LocalBoxes]:
        """Pass on."""
        return await self._noted(name).detect(name, images, least)

    async def classify(self, name: str, images: Sequence[Picture]) -> list[npt.NDArray[np.float32]]:
        """Pass on."""
        return await self._noted(name).classify(name, images)

    async def instances(self, name: str, images: Sequence[Picture]) -> list[LocalMasks]:
        """Pass on."""
        return await self._noted(name).instances(name, images)

    async def semantic(self, name: str, images: Sequence[Picture]) -> list[npt.NDArray[np.int16]]:
        """Pass on."""
        return await self._noted(name).semantic(name, images)

    async def embed(self, name: str, images: Sequence[Picture]) -> list[ImageEmbedding]:
        """Pass on."""
        return await self._noted(name).embed(name, images)

    async def masks_of_boxes(self, name: str, embedding: ImageEmbedding, boxes: Boxes) -> LocalMasks:
        """Pass on."""
        return await self._noted(name).masks_of_boxes(name, embedding, boxes)

    async def masks_of_points(
        self, name: str, embedding: ImageEmbedding, points: npt.NDArray[np.float32]
    ) -> LocalMasks:
        """Pass on."""
        return await self._noted(name).masks_of_points(name, embedding, points)

    async def every_mask_of_points(
        self,
        name: str,
        embedding: ImageEmbedding,
        points: npt.NDArray[np.float64],
        quality: MaskQuality,
    ) -> SketchedMasks:
        """Pass on."""
        return await self._noted(name).every_mask_of_points(name, embedding, points, quality)

    def _noted(self, name: str) -> Models:
        self._used[name] = self.models.spec(name)
        return self.models
