"""What a step asks of models, whoever runs them: numpy in, numpy out, in the frame of the pixels given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from pipeline_steps.artifact import NOTHING, Ids, Rows
from pipeline_steps.artifacts import Boxes, Detections, Image, Mask, Scores
from pipeline_steps.pictures import Picture


class ModelKind(StrEnum):
    """What a model does; each kind has one call in `Models`."""

    DETECTION = "detection"
    SAM = "sam"
    INSTANCE = "instance"
    SEMANTIC = "semantic"
    CLASSIFICATION = "classification"
    EMBEDDING = "embedding"
    TORCHSCRIPT = "torchscript"


CLASSIFIERS = (ModelKind.CLASSIFICATION, ModelKind.TORCHSCRIPT)
"""The kinds that say what a picture shows."""


class Precision(StrEnum):
    """How closely a model computes what its weights say."""

    EXACT = "exact"
    """In float32 throughout."""
    FAST = "fast"
    """Its trunk in 16 bits, where the device has them; docs/precision.md says what that changes."""


class Decoding(StrEnum):
    """How photos are decoded that a model only sees shrunk to its `input_size`."""

    FULL = "full"
    """At their own size."""
    SCALED = "scaled"
    """JPEGs smaller, as libjpeg does it: sooner and in less memory, and not quite the same pixels."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the manifest says of a model; known without loading it."""

    name: str
    kind: ModelKind
    version: str
    sha256: str
    classes: tuple[str, ...]
    threshold: float | None
    """Score under which an answer is dropped, unless the step says otherwise; None leaves it to the step."""
    input_size: int
    """The longer side, in pixels, of what the model is shown."""
    precision: Precision = Precision.EXACT
    decoding: Decoding = Decoding.FULL

    def least(self, asked: float | None, otherwise: float) -> float:
        """Return the least score that counts: the one asked for, else the manifest's, else the step's own."""
        if asked is not None:
            return asked
        return otherwise if self.threshold is None else self.threshold


@dataclass(frozen=True, eq=False)
class LocalBoxes:
    """Boxes in the frame of the pixels the model was given; only `in_image` makes detections of them."""

    xyxy: Boxes
    score: Scores
    label: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.score)

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> LocalBoxes:
        """Return the chosen rows."""
        return LocalBoxes(self.xyxy[rows], self.score[rows], self.label[rows])

    def above(self, score: float) -> LocalBoxes:
        """Return the boxes scored at least `score`."""
        return self.take(self.score >= score)

    def in_image(self, image: Image, ids: Ids, *, segment: int = NOTHING) -> Detections:
        """Return the boxes as detections, moved to the full image by the place `image` was cut from."""
        origin = np.array([image.x, image.y, image.x, image.y], np.float32)
        return Detections(
            ids, self.xyxy + origin, self.score, self.label, np.full(len(self), segment, np.int64)
        )


@dataclass(frozen=True, eq=False)
class LocalMasks:
    """Masks in the frame of the pixels the model was given, one per row."""

    mask: tuple[Mask, ...]
    score: Scores
    """The model's own estimate of each mask's IoU, or its score."""
    label: npt.NDArray[np.str_]
    """Empty strings where the model has no classes."""
    xyxy: Boxes


@dataclass(frozen=True, slots=True)
class MaskQuality:
    """Which masks a `sam` model should give; the thresholds of `SamAutomaticMaskGenerator`."""

    predicted_iou: float
    """The model's own estimate must be above it; 0 or less asks for nothing."""
    stability: float
    """At least this share must remain when the threshold of the logits is raised from `stability_offset`
    below to as much above; 0 or less asks for nothing."""
    stability_offset: float = 1.0


class Sketch(Protocol):
    """A mask whose pixels are not laid out: small, however large the picture is."""

    @property
    def area(self) -> int:
        """Pixels set."""
        ...

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        """The box they fill, its right and lower edges exclusive; four zeros where there are none."""
        ...

    def drawn(self) -> Mask:
        """Return the mask, which is as large as its box and must not be empty."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Drawing:
    """A mask that is laid out, where a sketch will do."""

    mask: Mask

    @property
    def area(self) -> int:
        """Pixels set."""
        return self.mask.area

    @property
    def xyxy(self) -> tuple[int, int, int, int]:
        """The mask's box."""
        height, width = self.mask.bits.shape
        return self.mask.x, self.mask.y, self.mask.x + width, self.mask.y + height

    def drawn(self) -> Mask:
        """Return it."""
        return self.mask


@dataclass(frozen=True, eq=False)
class SketchedMasks(Rows):
    """Good masks that a `sam` model sees, in the order of the points they were found by."""

    sketch: tuple[Sketch, ...]
    score: Scores
    """The model's own estimate of each mask's IoU."""
    stability: Scores
    point: npt.NDArray[np.float64]
    """(n, 2), x y: by which each was found."""

    @classmethod
    def none(cls) -> Self:
        """No masks."""
        return cls((), np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros((0, 2), np.float64))

    @property
    def xyxy(self) -> Boxes:
        """(n, 4): the boxes that the masks fill, right and lower edges exclusive."""
        return np.array([each.xyxy for each in self.sketch], np.float32).reshape(-1, 4)

    @property
    def area(self) -> npt.NDArray[np.int64]:
        """(n,): pixels set in each."""
        return np.array([each.area for each in self.sketch], np.int64)


class ImageEmbedding(Protocol):
    """A picture as a promptable model has seen it: opaque, and bound to the pixels it was made from."""


class Models(Protocol):
    """The warm models. Calls of many messages share batches; each returns one answer per item, in order.

    All raise `ModelUnavailable`, `ModelMismatch` (the model is of another kind) and `DeviceOverloaded`.
    """

    def spec(self, name: str) -> ModelSpec:
        """Return what the manifest says of the model."""
        ...

    async def detect(self, name: str, images: Sequence[Picture], least: float = 0.0) -> list[LocalBoxes]:
        """Return what a `detection` model finds in each image, sorted by descending score.

        What is scored lower than `least` may be left out: a model has less to do that knows it beforehand.
        """
        ...

    async def classify(self, name: str, images: Sequence[Picture]) -> list[npt.NDArray[np.float32]]:
        """Return each image's probabilities over the model's classes, (classes,), summing to 1."""
        ...

    async def instances(self, name: str, images: Sequence[Picture]) -> list[LocalMasks]:
        """Return the masks an `instance` model finds in each image."""
        ...

    async def semantic(self, name: str, images: Sequence[Picture]) -> list[npt.NDArray[np.int16]]:
        """Return each image's class per pixel, (height, width): an index into `classes`, -1 for none."""
        ...

    async def embed(self, name: str, images: Sequence[Picture]) -> list[ImageEmbedding]:
        """Return each image as a `sam` model sees it, to be prompted by `masks_of_boxes` and the like."""
        ...

    async def masks_of_boxes(self, name: str, embedding: ImageEmbedding, boxes: Boxes) -> LocalMasks:
        """Return the best mask for each box (in the frame of the embedded image), in order."""
        ...

    async def masks_of_points(
        self, name: str, embedding: ImageEmbedding, points: npt.NDArray[np.float32]
    ) -> LocalMasks:
        """Return the best of the three masks for each point (n, 2), in order."""
        ...

    async def every_mask_of_points(
        self,
        name: str,
        embedding: ImageEmbedding,
        points: npt.NDArray[np.float64],
        quality: MaskQuality,
    ) -> SketchedMasks:
        """Return those of the three masks of each point (n, 2) that are good, in the points' order."""
        ...


ModelCatalogue = Mapping[str, ModelSpec]
"""Every model of the manifest, by name."""
