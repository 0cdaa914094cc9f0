"""The artifacts of the vision steps, with those of `pictures.py`. Boxes: full-image pixels, x1 y1 x2 y2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline_steps.artifact import Artifact, Cumulative, Ids, Mergeable, Rows, Things, living
from pipeline_steps.pictures import Image as Image
from pipeline_steps.pictures import Mask as Mask
from pipeline_steps.pictures import Pixels as Pixels

R = TypeVar("R", bound=Rows)

Boxes = npt.NDArray[np.float32]
"""(n, 4), x1 y1 x2 y2."""
Scores = npt.NDArray[np.float32]
"""(n,), 0 to 1."""
Labels = npt.NDArray[np.str_]
"""(n,)."""


@dataclass(frozen=True, eq=False)
class Segments(Things, Artifact):
    """Regions of the picture, such as beds and trays."""

    xyxy: Boxes
    score: Scores
    label: Labels
    area_px: npt.NDArray[np.float32]
    """(n,), of the mask where there is one, else of the box."""
    mask: tuple[Mask | None, ...]

    @classmethod
    def none(cls) -> Self:
        """No segments."""
        return cls(*_no_boxes(), np.zeros(0, np.float32), ())


@dataclass(frozen=True, eq=False)
class Crops(Things, Artifact):
    """Parts of the picture cut out, each of one segment."""

    subjects = (Segments,)

    segment: Ids
    label: Labels
    image: tuple[Image, ...]

    def without_stale(self, alive: Mapping[type[Artifact], Ids]) -> tuple[Self, int]:
        """Drop crops of segments that are gone."""
        return _keep(self, living(self.segment, Segments, alive))


@dataclass(frozen=True, eq=False)
class Detections(Things, Mergeable):
    """Things found; `segment` is the id of the segment each lies in, or 0."""

    subjects = (Segments,)
    dies_with_subject = False

    xyxy: Boxes
    score: Scores
    label: Labels
    segment: Ids

    @classmethod
    def none(cls) -> Self:
        """No detections."""
        return cls(*_no_boxes(), _ids())

    def without_stale(self, alive: Mapping[type[Artifact], Ids]) -> tuple[Self, int]:
        """Forget segments that are gone; the detections themselves stay."""
        known = living(self.segment, Segments, alive)
        if known.all():
            return self, 0
        return replace(self, segment=np.where(known, self.segment, 0)), int((~known).sum())


@dataclass(frozen=True, eq=False)
class Classifications(Rows, Mergeable):
    """What things are: each row speaks of a detection, of a segment, or (both 0) of the picture."""

    subjects = (Detections, Segments)

    detection: Ids
    segment: Ids
    label: Labels
    score: Scores

    @classmethod
    def none(cls) -> Self:
        """No rows."""
        return cls(_ids(), _ids(), np.zeros(0, np.str_), np.zeros(0, np.float32))

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """Join the parts."""
        return cls.joined(parts)

    def without_stale(self, alive: Mapping[type[Artifact], Ids]) -> tuple[Self, int]:
        """Drop what is said of detections or segments that are gone."""
        return _keep(self, living(self.detection, Detections, alive) & living(self.segment, Segments, alive))


class Size(IntEnum):
    """How large a plant is among its neighbours; the numbers are the backend's."""

    S = 1
    M = 2
    L = 3
    XL = 4


@dataclass(frozen=True, eq=False)
class Sizes(Rows, Mergeable):
    """The size of each detection, as a `Size`."""

    subjects = (Detections,)

    detection: Ids
    size: npt.NDArray[np.int8]

    @classmethod
    def none(cls) -> Self:
        """No rows."""
        return cls(_ids(), np.zeros(0, np.int8))

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """Join the parts; of two sizes of one detection the first is kept."""
        rows = cls.joined(parts)
        _, first = np.unique(rows.detection, return_index=True)
        return rows.take(np.sort(first))

    def without_stale(self, alive: Mapping[type[Artifact], Ids]) -> tuple[Self, int]:
        """Drop the sizes of detections that are gone."""
        return _keep(self, living(self.detection, Detections, alive))


@dataclass(frozen=True, eq=False)
class Species(Rows, Mergeable):
    """The species given to each plant; `detection` is 0 for plants that were estimated, not seen."""

    subjects = (Detections,)

    detection: Ids
    species: Labels

    @classmethod
    def none(cls) -> Self:
        """No rows."""
        return cls(_ids(), np.zeros(0, np.str_))

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """Join the parts."""
        return cls.joined(parts)

    def without_stale(self, alive: Mapping[type[Artifact], Ids]) -> tuple[Self, int]:
        """Drop the species of detections that are gone."""
        return _keep(self, living(self.detection, Detections, alive))


@dataclass(frozen=True, eq=False)
class PlantEstimates(Rows, Mergeable):
    """Plants that were estimated from an area, not seen: one row per band of a segment, or per segment."""

    subjects = (Segments,)

    segment: Ids
    """0 where the whole picture was estimated."""
    method: Labels
    """`band_based` or `density_based`."""
    band: npt.NDArray[np.int16]
    """1 and up from the top; 0 where the estimate has no bands."""
    y_start: npt.NDArray[np.int32]
    y_end: npt.NDArray[np.int32]
    """Rows of the full image, the end exclusive."""
    residual_px: npt.NDArray[np.int64]
    """Area of the segment that no detection covers."""
    processed_px: npt.NDArray[np.int64]
    """Of that, vegetation; `processed_px + floor_px == residual_px`."""
    floor_px: npt.NDArray[np.int64]
    plant_area_px: npt.NDArray[np.float32]
    """Mean area of one plant that was used."""
    count: npt.NDArray[np.int64]

    @classmethod
    def none(cls) -> Self:
        """No rows."""
        return cls(
            _ids(),
            np.zeros(0, np.str_),
            np.zeros(0, np.int16),
            np.zeros(0, np.int32),
            np.zeros(0, np.int32),
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
            np.zeros(0, np.float32),
            np.zeros(0, np.int64),
        )

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """Join the parts."""
        return cls.joined(parts)

    def without_stale(self, alive: Mapping[type[Artifact], Ids]) -> tuple[Self, int]:
        """Drop the estimates of segments that are gone."""
        return _keep(self, living(self.segment, Segments, alive))


@dataclass(frozen=True, eq=False)
class SegmentCounts(Rows, Mergeable):
    """How many detections each segment holds; the row with segment 0 counts those outside all."""

    subjects = (Segments,)

    segment: Ids
    count: npt.NDArray[np.int64]

    @classmethod
    def none(cls) -> Self:
        """No rows."""
        return cls(_ids(), np.zeros(0, np.int64))

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """Join the parts; of two counts of one segment the first is kept."""
        rows = cls.joined(parts)
        _, first = np.unique(rows.segment, return_index=True)
        return rows.take(np.sort(first))

    def without_stale(self, alive: Mapping[type[Artifact], Ids]) -> tuple[Self, int]:
        """Drop the counts of segments that are gone."""
        return _keep(self, living(self.segment, Segments, alive))


@dataclass(frozen=True)
class Totals(Artifact):
    """The numbers of the whole picture, as `count` and `aggregate_detections` give them."""

    total_count: int
    """Plants seen and plants estimated."""
    detected: int
    estimated: int
    segments_with_detections: int
    coverage_percent: float
    """Area of the boxes as a share of the picture, at most 100."""
    mean_confidence: float
    of: int = 0
    """Detections there were, counted or not."""


@dataclass(frozen=True, eq=False)
class Overlay(Artifact):
    """The picture with what was found drawn on it."""

    pixels: Pixels


@dataclass(frozen=True)
class Upload:
    """A file that was stored; `kind` is `original` or `processed`, perhaps with `_thumbnail`."""

    kind: str
    url: str
    width: int
    height: int


@dataclass(frozen=True)
class Uploads(Cumulative):
    """Files that were stored, in order."""

    files: tuple[Upload, ...] = ()

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """Join the parts; a file written twice is listed once."""
        return cls(tuple(dict.fromkeys(file for part in parts for file in part.files)))


def _ids() -> Ids:
    return np.zeros(0, np.int64)


def _no_boxes() -> tuple[Ids, Boxes, Scores, Labels]:
    return _ids(), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.str_)


def _keep(rows: R, keep: npt.NDArray[np.bool_]) -> tuple[R, int]:
    return (rows, 0) if keep.all() else (rows.take(keep), int((~keep).sum()))
