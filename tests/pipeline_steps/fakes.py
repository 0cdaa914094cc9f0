"""Small real objects that stand in for the worker: models that see painted pictures, a store in memory.

A painted picture is black ground with rectangles; red and green say what one is, blue its score in percent.
The models look at the pixels they are given and at nothing else, so that a wrong frame gives a wrong answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from pipeline_steps.artifacts import Boxes, Detections, Image, Labels, Mask, Pixels, Segments
from pipeline_steps.context import Deadline, JobInfo, StepContext
from pipeline_steps.errors import ModelMismatch, ModelUnavailable, NotAllowed
from pipeline_steps.models import (
    Drawing,
    ImageEmbedding,
    LocalBoxes,
    LocalMasks,
    MaskQuality,
    ModelCatalogue,
    ModelKind,
    ModelSpec,
    SketchedMasks,
)
from pipeline_steps.regions import connected
from pipeline_steps.registry import Scope

COLOURS = {
    "plant": (20, 200),
    "weed": (40, 120),
    "cajon": (140, 90),
    "segmento": (90, 60),
    "claro-cajon": (230, 220),
}
CONTAINERS = ("segmento", "cajon", "claro-cajon")
GOOD_MASK, BAD_MASK = 0.95, 0.3


def spec(name: str, kind: ModelKind, classes: Sequence[str] = (), threshold: float | None = 0.5) -> ModelSpec:
    return ModelSpec(name, kind, "1", "0" * 64, tuple(classes), threshold, 512)


CATALOGUE: ModelCatalogue = MappingProxyType(
    {
        one.name: one
        for one in (
            spec("plants", ModelKind.DETECTION, ("plant", "weed")),
            spec("containers", ModelKind.DETECTION, CONTAINERS),
            spec("sam", ModelKind.SAM, threshold=0.8),
            spec("species", ModelKind.CLASSIFICATION, ("red", "green", "blue"), threshold=0.4),
            spec("archive", ModelKind.TORCHSCRIPT, ("tall", "short")),
            spec("trays", ModelKind.INSTANCE, CONTAINERS),
            spec("fields", ModelKind.SEMANTIC, CONTAINERS),
        )
    }
)


class SeeingModels:
    """Models that see what was painted; `calls` holds each call's model and number of images."""

    def __init__(self, catalogue: ModelCatalogue = CATALOGUE) -> None:
        self.catalogue = catalogue
        self.calls: list[tuple[str, int]] = []
        self.failing: Exception | None = None
        """Raised by the next calls, if set."""

    def spec(self, name: str) -> ModelSpec:
        if name not in self.catalogue:
            raise ModelUnavailable(name)
        return self.catalogue[name]

    async def detect(self, name: str, images: Sequence[Pixels], least: float = 0.0) -> list[LocalBoxes]:
        classes = self._asked(name, ModelKind.DETECTION, len(images)).classes
        return [_boxes(_regions_of(pixels, classes)) for pixels in images]

    async def classify(self, name: str, images: Sequence[Pixels]) -> list[npt.NDArray[np.float32]]:
        self._asked(name, ModelKind.CLASSIFICATION, len(images))
        shares = [pixels.reshape(-1, 3).mean(axis=0) + 1e-6 for pixels in images]
        return [(share / share.sum()).astype(np.float32) for share in shares]

    async def instances(self, name: str, images: Sequence[Pixels]) -> list[LocalMasks]:
        classes = self._asked(name, ModelKind.INSTANCE, len(images)).classes
        return [_masks(_regions_of(pixels, classes)) for pixels in images]

    async def semantic(self, name: str, images: Sequence[Pixels]) -> list[npt.NDArray[np.int16]]:
        classes = self._asked(name, ModelKind.SEMANTIC, len(images)).classes
        return [_class_map(pixels, classes) for pixels in images]

    async def embed(self, name: str, images: Sequence[Pixels]) -> list[ImageEmbedding]:
        self._asked(name, ModelKind.SAM, len(images))
        return list(images)

    async def masks_of_boxes(self, name: str, embedding: ImageEmbedding, boxes: Boxes) -> LocalMasks:
        self._asked(name, ModelKind.SAM, len(boxes))
        pixels = _pixels_of(embedding)
        masks = []
        for x1, y1, x2, y2 in boxes.astype(int).tolist():
            masks.append(Mask(pixels[y1:y2, x1:x2].any(axis=2), x1, y1))
        return LocalMasks(
            tuple(masks), np.full(len(boxes), GOOD_MASK, np.float32), np.full(len(boxes), ""), boxes
        )

    async def masks_of_points(
        self, name: str, embedding: ImageEmbedding, points: npt.NDArray[np.float32]
    ) -> LocalMasks:
        self._asked(name, ModelKind.SAM, len(points))
        pixels = _pixels_of(embedding)
        painted = pixels.any(axis=2)
        found = connected(painted.astype(np.int16))
        numbers = [int(found.number[int(y), int(x)]) for x, y in points]
        score = [GOOD_MASK if found.value[number] else BAD_MASK for number in numbers]
        return LocalMasks(
            tuple(found.mask(number) for number in numbers),
            np.array(score, np.float32),
            np.full(len(points), ""),
            found.xyxy[numbers].astype(np.float32),
        )

    async def every_mask_of_points(
        self,
        name: str,
        embedding: ImageEmbedding,
        points: npt.NDArray[np.float64],
        quality: MaskQuality,
    ) -> SketchedMasks:
        found = await self.masks_of_points(name, embedding, points.astype(np.float32))
        masks = SketchedMasks(
            tuple(Drawing(mask) for mask in found.mask),
            found.score,
            np.ones(len(points), np.float32),
            points,
        )
        return masks.take(masks.score > quality.predicted_iou)

    def _asked(self, name: str, kind: ModelKind, items: int) -> ModelSpec:
        if self.failing is not None:
            raise self.failing
        model = self.spec(name)
        if model.kind is not kind:
            raise ModelMismatch(name)
        self.calls.append((name, items))
        return model


class MemoryStore:
    """A tenant's folder in memory."""

    def __init__(self, bucket: str = "photos", tenant: str = "acme") -> None:
        self.root = f"gs://{bucket}/{tenant}"
        self.files: dict[str, bytes] = {}
        self.content_types: set[str] = set()

    def url(self, name: str) -> str:
        if ".." in name.split("/") or name.startswith("/"):
            raise NotAllowed(name)
        return f"{self.root}/{name}"

    async def write(self, name: str, data: bytes, *, content_type: str) -> str:
        url = self.url(name)
        self.files[name] = data
        self.content_types.add(content_type)
        return url


def job(source_url: str | None = None) -> JobInfo:
    return JobInfo("acme", "session", "photo", source_url)


def context(
    models: SeeingModels | None = None,
    store: MemoryStore | None = None,
    *,
    source_url: str | None = None,
    items: tuple[int, ...] = (),
    deadline: Deadline | None = None,
) -> StepContext:
    return StepContext(
        job(source_url),
        models or SeeingModels(),
        store or MemoryStore(),
        deadline or Deadline.after(3600),
        node=7,
        items=items,
    )


def countdown(checks: int) -> Deadline:
    """Return a deadline that passes after being checked so many times."""
    ticks = iter(range(1_000_000))
    return Deadline(checks, clock=lambda: float(next(ticks)))


def scope(
    models: ModelCatalogue | None = CATALOGUE,
    *,
    inside_map: bool = False,
    segment_labels: Iterable[str] | None = None,
) -> Scope:
    labels = frozenset(segment_labels) if segment_labels is not None else None
    return Scope(models, inside_map, labels)


Painted = tuple[str, tuple[int, int, int, int], float]


def painted(width: int, height: int, *things: Painted, x: int = 0, y: int = 0) -> Image:
    """Return black ground with rectangles: each a name, a box in this image's own frame, and a score."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for name, (x1, y1, x2, y2), score in things:
        pixels[y1:y2, x1:x2] = (*COLOURS[name], round(score * 100))
    return Image(pixels, x, y)


def detections_of(
    boxes: Sequence[Sequence[float]],
    *,
    score: Sequence[float] | None = None,
    segment: Sequence[int] | None = None,
    first_id: int = 1,
) -> Detections:
    n = len(boxes)
    return Detections(
        np.arange(n, dtype=np.int64) + first_id,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(score if score is not None else [0.9] * n, np.float32),
        np.full(n, "plant"),
        np.array(segment if segment is not None else [0] * n, np.int64),
    )


def segments_of(
    *things: tuple[str, tuple[float, float, float, float]], masks: Sequence[Mask | None] | None = None
) -> Segments:
    """Return segments with the ids 101, 102 and so on; the area is the mask's, or the box's."""
    boxes = np.array([box for _, box in things], np.float32).reshape(-1, 4)
    masks = masks if masks is not None else [None] * len(things)
    areas = [
        mask.area if mask is not None else (x2 - x1) * (y2 - y1)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True)
    ]
    labels: Labels = np.array([label for label, _ in things], np.str_)
    return Segments(
        np.arange(len(things), dtype=np.int64) + 101,
        boxes,
        np.full(len(things), 0.9, np.float32),
        labels,
        np.array(areas, np.float32),
        tuple(masks),
    )


def _class_map(pixels: Pixels, classes: Sequence[str]) -> npt.NDArray[np.int16]:
    found = np.full(pixels.shape[:2], -1, np.int16)
    for number, name in enumerate(classes):
        red, green = COLOURS[name]
        found[(pixels[..., 0] == red) & (pixels[..., 1] == green)] = number
    return found


Seen = list[tuple[str, float, Mask]]


def _regions_of(pixels: Pixels, classes: Sequence[str]) -> Seen:
    of_class = _class_map(pixels, classes)
    coded = np.where(of_class >= 0, of_class * 128 + pixels[..., 2], -1).astype(np.int16)
    found = connected(coded)
    seen = [
        (classes[value // 128], (value % 128) / 100, found.mask(i))
        for i, value in enumerate(found.value.tolist())
    ]
    return sorted(seen, key=lambda one: -one[1])


def _boxes(seen: Seen) -> LocalBoxes:
    return LocalBoxes(
        np.array([_box(mask) for _, _, mask in seen], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in seen], np.float32),
        np.array([label for label, _, _ in seen], np.str_),
    )


def _masks(seen: Seen) -> LocalMasks:
    boxes = _boxes(seen)
    return LocalMasks(tuple(mask for _, _, mask in seen), boxes.score, boxes.label, boxes.xyxy)


def _box(mask: Mask) -> tuple[int, int, int, int]:
    height, width = mask.bits.shape
    return mask.x, mask.y, mask.x + width, mask.y + height


def _pixels_of(embedding: ImageEmbedding) -> Pixels:
    assert isinstance(embedding, np.ndarray)
    return embedding
