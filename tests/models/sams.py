"""SAMs of several sizes and weights, stock's answers, and ours."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from consumer.models.architectures import ARCHITECTURES
from consumer.models.calls import ModelCalls
from consumer.models.sam import SamRunner
from pipeline_steps.artifacts import Image, Mask, Pixels
from pipeline_steps.models import MaskQuality, ModelKind, ModelSpec
from pipeline_steps.vision.automatic import Regions, Search, find
from tests.models.random_models import spec
from tests.pipeline_steps.fakes import context

SHIPPED = Path(__file__).parents[2] / "consumer" / "local" / "models" / "sam.safetensors"
CPU = torch.device("cpu")


@cache
def sam(name: str) -> Sam:
    """Return the shipped SAM, or a random one built like ViT-B: `vit`, or `odd`, whose sides divide badly."""
    if name == "shipped":
        network = ARCHITECTURES["sam_small"](0)
        network.load_state_dict({key: value.float() for key, value in load_file(SHIPPED).items()})
        return network.requires_grad_(False)
    torch.manual_seed(3)
    network = _vit(160, 4, 6) if name == "vit" else _vit(144, 3, 4, channels=48, heads=3)
    network.requires_grad_(False)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)  # positions start as zeros, which would test nothing
    # Random masks are nearly flat: without this, no pixel is sure of its side.
    for brush in network.mask_decoder.output_hypernetworks_mlps:
        brush.layers[-1].weight *= 40
        brush.layers[-1].bias *= 40
    network.mask_decoder.iou_prediction_head.layers[-1].weight *= 3
    return network


def _vit(side: int, depth: int, window: int, channels: int = 32, heads: int = 4) -> Sam:
    tokens = side // 16
    return Sam(
        ImageEncoderViT(
            img_size=side,
            depth=depth,
            embed_dim=48 * heads // 2,
            num_heads=heads,
            out_chans=channels,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=window,
            global_attn_indexes=(depth - 1,),
        ),
        PromptEncoder(channels, (tokens, tokens), (side, side), 16),
        MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=channels, mlp_dim=64, num_heads=4),
            transformer_dim=channels,
        ),
    ).eval()


def runner(network: Sam, max_batch: int = 4) -> SamRunner:
    return SamRunner(network, spec(ModelKind.SAM, input_size=network.image_encoder.img_size), CPU, max_batch)


class OneModel(ModelCalls):
    """A pool of one model, without batches."""

    def __init__(self, model: SamRunner) -> None:
        self._model = model

    def spec(self, name: str) -> ModelSpec:
        return spec(ModelKind.SAM, name=name)

    async def _ask(self, name: str, kinds: Sequence[ModelKind], items: Sequence[Any]) -> list[Any]:
        with torch.inference_mode():
            return [self._model.run([self._model.prepare(item)])[0] for item in items]


class Found(NamedTuple):
    """One mask of the automatic mode, as stock records it."""

    bits: npt.NDArray[np.bool_]
    """As large as the picture."""
    box: list[float]
    area: int
    score: float
    stability: float
    point: list[float]
    crop: list[float]
    lengths: str
    """COCO's compressed run lengths."""


def stock(network: Sam, picture: Pixels, **settings: Any) -> list[Found]:
    from pycocotools import mask as coco

    generator = SamAutomaticMaskGenerator(network, output_mode="coco_rle", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's, about how the two use it
        return [
            Found(
                coco.decode(one["segmentation"]).astype(np.bool_),
                one["bbox"],
                one["area"],
                one["predicted_iou"],
                one["stability_score"],
                one["point_coords"][0],
                one["crop_box"],
                one["segmentation"]["counts"],
            )
            for one in generator.generate(picture)
        ]


def ours(network: Sam, picture: Pixels, **settings: Any) -> list[Found]:
    from pipeline_steps.masks import run_lengths

    quality = MaskQuality(
        settings.pop("pred_iou_thresh", 0.88),
        settings.pop("stability_score_thresh", 0.95),
        settings.pop("stability_score_offset", 1.0),
    )
    search = Search(
        quality, settings.pop("points_per_side", 32), settings.pop("box_nms_thresh", 0.7), **settings
    )
    ctx = context(OneModel(runner(network)))  # type: ignore[arg-type]
    regions: Regions = asyncio.run(find("sam", Image(picture), search, ctx))
    height, width = picture.shape[:2]
    return [
        Found(
            whole(mask, height, width),
            [mask.x, mask.y, mask.bits.shape[1] - 1, mask.bits.shape[0] - 1],
            int(area),
            float(score),
            float(stability),
            (point + crop[:2]).tolist(),
            [crop[0], crop[1], crop[2] - crop[0], crop[3] - crop[1]],
            run_lengths(mask, width, height),
        )
        for mask, area, score, stability, point, crop in zip(
            regions.masks(),
            regions.area,
            regions.score,
            regions.stability,
            regions.point,
            regions.crop.tolist(),
            strict=True,
        )
    ]


def whole(mask: Mask, height: int, width: int) -> npt.NDArray[np.bool_]:
    canvas = np.zeros((height, width), np.bool_)
    canvas[mask.y : mask.y + mask.bits.shape[0], mask.x : mask.x + mask.bits.shape[1]] = mask.bits
    return canvas


def iou(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))
