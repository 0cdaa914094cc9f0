"""Find the regions of the picture: beds, trays, or whatever a model tells apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
from pydantic import Field

from pipeline_steps.artifacts import Image, Mask, Segments
from pipeline_steps.checks import class_problems, model_classes, model_problems
from pipeline_steps.context import StepContext
from pipeline_steps.geometry import suppress
from pipeline_steps.models import CLASSIFIERS, MaskQuality, ModelKind
from pipeline_steps.names import Names
from pipeline_steps.registry import Kinds, Scope, StepParams, step
from pipeline_steps.vision import automatic, candidates
from pipeline_steps.vision.candidates import Candidates
from pipeline_steps.vision.views import chosen, clipped

Mode: TypeAlias = Literal["prompted", "automatic", "instance", "semantic"]

UNNAMED = "object"
"""The label of what SAM finds by itself and no classifier names."""
LEAST_SCORE = 0.5
"""Where neither pipeline nor manifest has one."""
LEAST_QUALITY = 0.88
"""Likewise of a mask: what `SamAutomaticMaskGenerator` wants."""


NAMED_BY: Mapping[Mode, tuple[ModelKind, ...]] = {
    "prompted": (ModelKind.DETECTION,),
    "automatic": CLASSIFIERS,
    "instance": (ModelKind.INSTANCE,),
    "semantic": (ModelKind.SEMANTIC,),
}
"""The kinds of model that name the regions."""


class SegmentationParams(StepParams):
    """Which models, in which way, and what is kept."""

    mode: Mode = Field(
        default="prompted",
        description="`prompted`: a detector finds and names, SAM gives the masks. `automatic`: SAM finds by "
        "itself, from a grid of points. `instance`, `semantic`: a model of that kind does all.",
    )
    model: str | None = Field(
        default=None,
        description="The model that gives the masks. Unset: `sam`; `instance` and `semantic` need a name.",
    )
    detector: str = Field(default="containers", description="`prompted`: the detector of regions.")
    classifier: str | None = Field(
        default=None, description="`automatic`: a classifier that names the regions. Unset: all are `object`."
    )
    confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Least score, 0 to 1, of the detector (`prompted`), the model (`instance`) or the "
        f"classifier (`automatic`). Unset: that model's own threshold, {LEAST_SCORE} where it has none.",
    )
    classes: Names | None = Field(default=None, description="Keep only these labels. Unset: all.")
    masks: bool = Field(
        default=True, description="Give each segment its mask. Without, `prompted` needs no SAM: boxes only."
    )
    points_per_side: int = Field(
        default=16, ge=1, le=64, description="`automatic`: points of the grid along each side."
    )
    pred_iou_thresh: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="`automatic`: least quality, 0 to 1, that SAM gives its mask. Unset: the model's own "
        f"threshold, {LEAST_QUALITY} where it has none.",
    )
    stability_score_thresh: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="`automatic`: least share, 0 to 1, that is left of a mask when the threshold of its "
        "logits is raised from `stability_score_offset` below to as much above.",
    )
    stability_score_offset: float = Field(
        default=1.0, ge=0, description="`automatic`: see `stability_score_thresh`."
    )
    crop_n_layers: int = Field(
        default=0,
        ge=0,
        le=3,
        description="`automatic`: also look at crops: 1 at 2 x 2 of them, 2 at another 4 x 4, 3 at 8 x 8.",
    )
    crop_nms_thresh: float = Field(
        default=0.7, gt=0, le=1, description="`automatic`: as `box_nms_thresh`, between crops."
    )
    crop_overlap_ratio: float = Field(
        default=512 / 1500,
        ge=0,
        le=0.9,
        description="`automatic`: overlap of the first layer's crops, a share of the picture's shorter side.",
    )
    crop_n_points_downscale_factor: int = Field(
        default=1,
        ge=1,
        le=8,
        description="`automatic`: each layer's crops have so many times fewer points along a side.",
    )
    box_nms_thresh: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Of two regions whose boxes overlap (intersection over union) by at least this, the "
        "better one is kept, whatever their labels. Not for `semantic`.",
    )
    min_area: float = Field(
        default=0.0005,
        ge=0,
        le=1,
        description="`automatic`, `semantic`: smallest region kept, a share of the picture's area, 0 to 1.",
    )

    @property
    def mask_model(self) -> str:
        """The model that gives the masks."""
        return self.model or "sam"

    def problems(self, scope: Scope) -> Iterator[tuple[str, str]]:
        """Check the models that this mode uses, and the classes asked for."""
        if self.mode in ("instance", "semantic"):
            if self.model is None:
                yield "model", f"mode {self.mode!r} needs the name of a model of that kind"
                return
            yield from model_problems(scope, "model", self.model, ModelKind(self.mode))
        elif self.masks or self.mode == "automatic":
            yield from model_problems(scope, "model", self.mask_model, ModelKind.SAM)
        if self.mode == "prompted":
            yield from model_problems(scope, "detector", self.detector, ModelKind.DETECTION)
        if self.mode == "automatic" and self.classifier is not None:
            yield from model_problems(scope, "classifier", self.classifier, *CLASSIFIERS)
        namer = self._namer()
        if namer is not None:
            yield from class_problems(scope, "classes", namer, self.classes, *NAMED_BY[self.mode])
        fewer = self.crop_n_points_downscale_factor**self.crop_n_layers
        if self.mode == "automatic" and fewer > self.points_per_side:
            said = (
                f"crops of layer {self.crop_n_layers} would have no points: they have {fewer} times fewer "
                f"along a side, expected at most {self.points_per_side} times (points_per_side)"
            )
            yield "crop_n_points_downscale_factor", said

    def segment_labels(self, scope: Scope) -> frozenset[str] | None:
        """The classes of the model that names the segments, or `object`."""
        namer = self._namer()
        if namer is None:
            return frozenset({UNNAMED})
        return model_classes(scope, namer, self.classes, *NAMED_BY[self.mode])

    def _namer(self) -> str | None:
        match self.mode:
            case "prompted":
                return self.detector
            case "automatic":
                return self.classifier
            case "instance" | "semantic":
                return self.mask_model


def _only_shows(params: SegmentationParams, written: Kinds) -> bool:
    """Tell whether it looks at no crops: neither SAM, nor a classifier of regions."""
    del written
    return params.mode != "automatic" or (params.crop_n_layers == 0 and params.classifier is None)


@step("segmentation", only_shows=_only_shows)
async def segment(image: Image, params: SegmentationParams, ctx: StepContext) -> Segments:
    """Find the regions of the picture, largest first.

    `prompted`: the detector gives class, score and box, SAM the mask in each box. `automatic`: SAM's masks of
    a grid of points, filtered as `SamAutomaticMaskGenerator` does; scored by the classifier, or by SAM
    itself. `instance`: the model's masks. `semantic`: the connected regions (4-connected) of each class,
    scored 1.

    Boxes and masks are full-image pixels; `area_px` is the mask's where there is one, else the box's. A
    region in whose box SAM sees nothing keeps its box and has no mask.

    Raises:
        DeadlineExceeded: the time was over between two calls to a model.
        ModelUnavailable, ModelMismatch, DeviceOverloaded: from the models.
    """
    match params.mode:
        case "prompted":
            found = await _prompted(image, params, ctx)
        case "automatic":
            found = await _automatic(image, params, ctx)
        case "instance":
            found = await _instances(image, params, ctx)
        case "semantic":
            found = await _semantic(image, params, ctx)
    return _segments(found, image, params, ctx)


async def _prompted(image: Image, params: SegmentationParams, ctx: StepContext) -> Candidates:
    least = ctx.models.spec(params.detector).least(params.confidence, LEAST_SCORE)
    boxes = (await ctx.models.detect(params.detector, [image.shown], least))[0]
    found = candidates.of_boxes(clipped(chosen(boxes, least, params.classes), image))
    # One region may be two classes to a detector; as two segments its plants would be counted twice.
    found = found.take(suppress(found.xyxy, found.score, params.box_nms_thresh))
    if not params.masks or not len(found):
        return found
    ctx.deadline.check()
    embedding = (await ctx.models.embed(params.mask_model, [image.shown]))[0]
    return await candidates.with_masks(found, params.mask_model, embedding, image, ctx)


async def _automatic(image: Image, params: SegmentationParams, ctx: StepContext) -> Candidates:
    least = ctx.models.spec(params.mask_model).least(params.pred_iou_thresh, LEAST_QUALITY)
    search = automatic.Search(
        MaskQuality(least, params.stability_score_thresh, params.stability_score_offset),
        params.points_per_side,
        params.box_nms_thresh,
        params.crop_n_layers,
        params.crop_nms_thresh,
        params.crop_overlap_ratio,
        params.crop_n_points_downscale_factor,
    )
    regions = await automatic.find(params.mask_model, image, search, ctx)
    regions = automatic.without_small(regions, params.min_area * image.width * image.height)
    found = candidates.of_regions(regions, UNNAMED, await automatic.drawn(regions) if params.masks else None)
    if params.classifier is None or not len(found):
        return found.of_classes(params.classes)
    spec = ctx.models.spec(params.classifier)
    ctx.deadline.check()
    shown = [Image(image.pixels).crop(box).pixels for box in found.xyxy]
    likely = np.stack(await ctx.models.classify(params.classifier, shown))
    named = replace(found, label=np.array(spec.classes)[likely.argmax(1)], score=likely.max(1))
    least = spec.least(params.confidence, LEAST_SCORE)
    return named.take(named.score >= least).of_classes(params.classes)


async def _instances(image: Image, params: SegmentationParams, ctx: StepContext) -> Candidates:
    least = ctx.models.spec(params.mask_model).least(params.confidence, LEAST_SCORE)
    found = candidates.of_masks((await ctx.models.instances(params.mask_model, [image.shown]))[0])
    found = found.take(found.score >= least)
    found = found.of_classes(params.classes)
    return found.take(suppress(found.xyxy, found.score, params.box_nms_thresh))


async def _semantic(image: Image, params: SegmentationParams, ctx: StepContext) -> Candidates:
    spec = ctx.models.spec(params.mask_model)
    classes = (await ctx.models.semantic(params.mask_model, [image.shown]))[0]
    found = await candidates.of_class_map(
        classes, spec.classes, min_area=params.min_area * image.width * image.height
    )
    return found.of_classes(params.classes)


def _segments(found: Candidates, image: Image, params: SegmentationParams, ctx: StepContext) -> Segments:
    """Return the candidates in full-image pixels, largest first."""
    found = found.take(np.argsort(-found.area, kind="stable"))
    corner = np.array([image.x, image.y, image.x, image.y], np.float32)
    masks: tuple[Mask | None, ...] = tuple(
        Mask(mask.bits, mask.x + image.x, mask.y + image.y) if params.masks and mask is not None else None
        for mask in found.mask
    )
    return Segments(ctx.ids(len(found)), found.xyxy + corner, found.score, found.label, found.area, masks)
