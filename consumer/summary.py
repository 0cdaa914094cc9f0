"""From the artifacts a pipeline wrote to the result that readers get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from contracts.geometry import Box, RunLengthMask
from contracts.result import Classification, Detection, Estimation, Segment, StoredArtifact
from pipeline_steps.artifact import NOTHING, Artifacts, Ids
from pipeline_steps.artifacts import (
    Classifications,
    Detections,
    Mask,
    PlantEstimates,
    SegmentCounts,
    Segments,
    Size,
    Sizes,
    Species,
    Totals,
    Uploads,
)
from pipeline_steps.masks import run_lengths

UNIT = "units"


def segments_of(written: Artifacts, width: int, height: int) -> tuple[Segment, ...]:
    """Return the segments in their order; masks as large as the picture."""
    found = written.get(Segments) or Segments.none()
    return tuple(
        Segment(
            index=i,
            label=str(found.label[i]),
            confidence=_rounded(found.score[i]),
            box=_box(found.xyxy[i]),
            area_px=float(found.area_px[i]),
            mask=_mask(found.mask[i], width, height),
        )
        for i in range(len(found))
    )


def detections_of(written: Artifacts) -> tuple[Detection, ...]:
    """Return the detections in their order, each with the index of its segment."""
    found = written.get(Detections) or Detections.none()
    segment_index = _index_of((written.get(Segments) or Segments.none()).id)
    return tuple(
        Detection(
            index=i,
            label=str(found.label[i]),
            confidence=_rounded(found.score[i]),
            box=_box(found.xyxy[i]),
            segment=segment_index.get(int(found.segment[i])),
        )
        for i in range(len(found))
    )


def classifications_of(written: Artifacts) -> tuple[Classification, ...]:
    """Return what was said of things: by models, by the distribution of species, and their sizes."""
    return tuple(_classifications(written))


def estimations_of(written: Artifacts, *, succeeded: bool) -> tuple[Estimation, ...]:
    """Return the numbers about the picture.

    An estimate without bands is told under its method's name, one with bands as `{method}_{band}`. Where
    segments were looked for, `count_segment_{index}` is the number of detections in each, and
    `count_segment_-1` of those outside all, if there are any; that row is none of `segments_with_detections`.
    `COUNT`, which the backend books stock from, is given only where detections were written by a run that
    succeeded as a whole.
    """
    return tuple(_estimations(written, succeeded=succeeded))


def artifacts_of(written: Artifacts) -> tuple[StoredArtifact, ...]:
    """Return the files that were stored."""
    return tuple(
        StoredArtifact(kind=file.kind, url=file.url, width=file.width, height=file.height)
        for file in (written.get(Uploads) or Uploads()).files
    )


def _classifications(written: Artifacts) -> Iterator[Classification]:
    detections = written.get(Detections) or Detections.none()
    detection_index = _index_of(detections.id)
    segment_index = _index_of((written.get(Segments) or Segments.none()).id)
    sizes = written.get(Sizes)
    size_of = dict(zip(sizes.detection.tolist(), sizes.size.tolist(), strict=True)) if sizes else {}

    def size(detection: int) -> str | None:
        return Size(size_of[detection]).name if detection in size_of else None

    said, species = written.get(Classifications), written.get(Species)
    if said is not None:
        for detection, segment, label, score in zip(
            said.detection.tolist(),
            said.segment.tolist(),
            said.label.tolist(),
            said.score.tolist(),
            strict=True,
        ):
            yield Classification(
                detection=detection_index.get(detection),
                segment=segment_index.get(segment),
                label=label,
                confidence=_rounded(score),
                size=size(detection),
            )
    if species is not None:
        for detection, label in zip(species.detection.tolist(), species.species.tolist(), strict=True):
            yield Classification(
                detection=detection_index.get(detection), label=label, confidence=1.0, size=size(detection)
            )
    if said is None and species is None:
        for i, identity in enumerate(detections.id.tolist()):
            if identity in size_of:
                yield Classification(
                    detection=i,
                    label=str(detections.label[i]),
                    confidence=_rounded(detections.score[i]),
                    size=size(identity),
                )


def _estimations(written: Artifacts, *, succeeded: bool) -> Iterator[Estimation]:
    detections, estimates = written.get(Detections), written.get(PlantEstimates)
    seen = len(detections) if detections is not None else 0
    estimated = int(estimates.count.sum()) if estimates is not None else 0
    totals = written.get(Totals)
    if totals is not None and (totals.of, totals.estimated) != (seen, estimated):
        totals = None  # what was found or estimated after the counting makes it out of date
    if detections is not None or estimates is not None:
        total = totals.total_count if totals is not None else seen + estimated
        yield _number("total_count", total)
        if detections is not None and succeeded:
            yield _number("COUNT", total)
    if estimates is not None:
        yield _number("estimated_count", estimated)
        of_row: Counter[str] = Counter()
        for method, band, count in zip(
            estimates.method.tolist(), estimates.band.tolist(), estimates.count.tolist(), strict=True
        ):
            of_row[f"{method}_{band}" if band else method] += count
        for name, count in of_row.items():
            yield _number(name, count)
    if totals is not None:
        if written.get(Segments) is not None:
            with_some = totals.segments_with_detections
            yield Estimation(type="segments_with_detections", value=float(with_some), unit="segments")
        yield Estimation(type="coverage_percent", value=_rounded(totals.coverage_percent), unit="percent")
        yield Estimation(type="confidence_avg", value=_rounded(totals.mean_confidence))
    yield from _counted(written)


def _counted(written: Artifacts) -> Iterator[Estimation]:
    sizes, species, counts = written.get(Sizes), written.get(Species), written.get(SegmentCounts)
    if sizes is not None:
        of_size = Counter(sizes.size.tolist())
        for size in Size:
            yield _number(f"size_{size.name}", of_size[size.value])
    if species is not None:
        for name, count in Counter(species.species.tolist()).items():
            yield _number(f"species_{name}", count)
    segments = written.get(Segments)
    if counts is not None and segments is not None:
        segment_index = {**_index_of(segments.id), NOTHING: -1}
        for segment, count in zip(counts.segment.tolist(), counts.count.tolist(), strict=True):
            if segment in segment_index:
                yield _number(f"count_segment_{segment_index[segment]}", count)


def _number(name: str, value: int) -> Estimation:
    return Estimation(type=name[:100], value=float(value), unit=UNIT)


def _index_of(ids: Ids) -> Mapping[int, int]:
    return {identity: i for i, identity in enumerate(ids.tolist())}


def _box(xyxy: npt.NDArray[np.float32]) -> Box:
    x1, y1, x2, y2 = (round(float(edge), 2) for edge in xyxy)
    return Box(x1=x1, y1=y1, x2=x2, y2=y2)


def _mask(mask: Mask | None, width: int, height: int) -> RunLengthMask | None:
    if mask is None:
        return None
    return RunLengthMask(size=(height, width), counts=run_lengths(mask, width, height))


def _rounded(value: float | np.floating[npt.NBitBase]) -> float:
    return round(float(value), 4)


def warnings_of(written: Artifacts, warnings: Iterable[str]) -> tuple[str, ...]:
    """Return the pipeline's warnings, and how much of what was written spoke of things since replaced."""
    stale = (
        (f"{written.stale} stale rows were dropped: what they spoke of was replaced",)
        if written.stale
        else ()
    )
    return (*warnings, *stale)
