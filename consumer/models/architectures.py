"""Builders of the networks the worker knows, without weights: training and loading build the same thing.

`ARCHITECTURES` names them for `models.yaml`. A builder takes the number of classes as the manifest counts
them, without a background; where a network needs one, its builder adds it (label 0, so that the manifest's
first class is label 1). Nothing here ever downloads: every builder passes `weights=None`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn
from torchvision import models
from torchvision.models import detection, segmentation
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, nms
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

Builder = Callable[[int], nn.Module]

# What classifiers and semantic networks expect of RGB in 0..1; detectors and SAM normalise by themselves.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Detectors answer generously and let the caller apply the manifest's threshold.
LOWEST_SCORE = 0.05


def _pyramid(channels: int) -> BackboneWithFPN:
    """MobileNetV3-small with a feature pyramid at strides 8, 16 and 32, and 64 by pooling."""
    # Without the last layer, a projection to 576 channels that the pyramid would only narrow again.
    trunk = models.mobilenet_v3_small(weights=None).features[:12]
    return BackboneWithFPN(
        trunk, {"3": "0", "8": "1", "11": "2"}, [24, 48, 96], channels, extra_blocks=LastLevelMaxPool()
    )


class _AsItIs(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no annotations
    """Normalises and batches as torchvision's detectors do, but leaves the scale to the caller."""

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Change nothing."""
        return image, target


class _OneThingOneBox(FCOS):  # type: ignore[misc]  # torchvision has no annotations
    """An FCOS that calls a thing by its best class only: a dark crate is not a light tray as well."""

    def postprocess_detections(
        self,
        head_outputs: dict[str, list[Tensor]],
        anchors: list[list[Tensor]],
        image_shapes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """As torchvision's, and then suppress across classes."""
        kept = []
        for found in super().postprocess_detections(head_outputs, anchors, image_shapes):
            best = nms(found["boxes"], found["scores"], self.nms_thresh)
            kept.append({key: values[best] for key, values in found.items()})
        return kept


def fcos_small(num_classes: int, channels: int = 64, overlap: float = 0.5) -> nn.Module:
    """A detector of a million parameters: MobileNetV3-small, a pyramid at strides 8 to 64, an FCOS head.

    Input: a list of float images (3, h, w), RGB in 0..1, at the scale they are to be looked at: unlike
    torchvision's own detectors it resizes nothing. Output: a list of `{"boxes": (n, 4) x1 y1 x2 y2, "scores":
    (n,), "labels": (n,) from 1}`.

    Args:
        num_classes: Classes without background.
        channels: Width of pyramid and head.
        overlap: IoU above which the weaker of two boxes is dropped, whatever their classes.
    """
    # Sizes half the usual ones: a level takes smaller things, so that the middle levels have something to do.
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,)), ((1.0,),) * 4)
    network = _OneThingOneBox(
        _pyramid(channels),
        num_classes + 1,
        anchor_generator=anchors,
        head=FCOSHead(channels, 1, num_classes + 1, num_convs=2),
        score_thresh=LOWEST_SCORE,
        nms_thresh=overlap,
        detections_per_img=400,
        topk_candidates=1000,
    )
    network.transform = _AsItIs(0, 0, list(IMAGENET_MEAN), list(IMAGENET_STD))
    return network.eval()  # type: ignore[no-any-return]


class ConvolutionalPatches(nn.Module):
    """Patches for a vision transformer from a convolutional pyramid instead of a convolution of raw pixels.

    From scratch on few pictures a plain patch embedding learns slowly; a pyramid that has learnt to detect
    knows edges, leaves and trays already (the training starts from the plant detector's).
    """

    def __init__(self, width: int, channels: int = 64) -> None:
        super().__init__()
        self.pyramid = _pyramid(channels)
        # The finest level, stride 8, holds what the others know too.
        self.gather = nn.Conv2d(channels, width, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Embed (n, 3, h, w) as (n, h / 8, w / 8, width), as segment-anything's blocks take it."""
        embedded: Tensor = self.gather(self.pyramid(images)["0"])
        return embedded.permute(0, 2, 3, 1)


def sam_small(num_classes: int = 0, img_size: int = 256, width: int = 128) -> nn.Module:
    """A small SAM of three million parameters: segment-anything's own classes, embedding 32 x 32.

    Input and output are those of `segment_anything.modeling.Sam`: RGB in 0..255 of `img_size` on the longer
    side (SAM normalises and pads), prompts in that frame; masks at half of that side, with their estimated
    IoU. (At a quarter, SAM's own ratio, a plant of 16 pixels is four places wide: even its true mask, made
    so small and large again, has an IoU of only 0.8.)

    Args:
        num_classes: Ignored; SAM knows no classes.
        img_size: Side of the square the encoder sees, pixels.
        width: Width of the embedding.
    """
    del num_classes
    patch = 8
    tokens = img_size // patch
    encoder = ImageEncoderViT(
        img_size=img_size,
        patch_size=patch,
        depth=4,
        embed_dim=width,
        num_heads=4,
        mlp_ratio=3,
        out_chans=width,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=8,
        global_attn_indexes=(1, 3),
    )
    encoder.patch_embed = ConvolutionalPatches(width)
    network = Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=width,
            image_embedding_size=(tokens, tokens),
            input_image_size=(img_size, img_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=512, num_heads=4),
            transformer_dim=width,
            iou_head_depth=3,
            iou_head_hidden_dim=128,
        ),
    )
    # Twice the usual frequencies, so that places a plant's width apart differ for the attention at once.
    network.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix *= 2
    return network.eval()  # type: ignore[no-any-return]


def _stock_sam(build: Callable[[], nn.Module]) -> Builder:
    """One of segment-anything's own sizes: images of 1024 on the longer side, otherwise as `sam_small`."""

    def builder(num_classes: int = 0) -> nn.Module:
        del num_classes
        return build().eval()

    return builder


def small_classifier(num_classes: int) -> nn.Module:
    """A classifier of less than a million parameters: MobileNetV3-small without its wide last layers.

    Input: float (n, 3, h, w), RGB normalised by `IMAGENET_MEAN` and `IMAGENET_STD`; trained at 64 x 64.
    Output: logits (n, num_classes).
    """
    trunk = models.mobilenet_v3_small(weights=None).features[:12]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(96, num_classes)]
    return nn.Sequential(*trunk, *head).eval()


def _classifier(name: str) -> Builder:
    """A torchvision classifier by name; input and output as `small_classifier`."""

    def builder(num_classes: int) -> nn.Module:
        return models.get_model(name, weights=None, num_classes=num_classes).eval()  # type: ignore[no-any-return]

    return builder


def _finder(name: str) -> Builder:
    """A torchvision detector by name, or a Mask R-CNN.

    Input: a list of float images (3, h, w), RGB in 0..1 (it resizes and normalises by itself).
    Output: a list of `{"boxes", "labels" from 1, "scores"}`, of a Mask R-CNN also `"masks" (n, 1, h, w) in
    0..1`, in the frame of its image.
    """

    def builder(num_classes: int) -> nn.Module:
        network = models.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes + 1)
        return network.eval()  # type: ignore[no-any-return]

    return builder


def maskrcnn_small(num_classes: int) -> nn.Module:
    """A Mask R-CNN of a few million parameters for tests; input and output as the big one."""
    anchors = AnchorGenerator(((16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 4)
    network = detection.MaskRCNN(
        _pyramid(64),
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=2),
        mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=14, sampling_ratio=2),
        box_head=TwoMLPHead(64 * 7 * 7, 256),
        box_predictor=FastRCNNPredictor(256, num_classes + 1),
        mask_head=MaskRCNNHeads(64, (64, 64), 1),
        mask_predictor=MaskRCNNPredictor(64, 64, num_classes + 1),
        min_size=256,
        max_size=512,
    )
    return network.eval()  # type: ignore[no-any-return]


def _semantic(build: Callable[..., nn.Module]) -> Builder:
    """A torchvision semantic network.

    Input: float (n, 3, h, w), RGB normalised by `IMAGENET_MEAN` and `IMAGENET_STD`.
    Output: `{"out": (n, num_classes + 1, h, w)}`, logits, channel 0 the background.
    """

    def builder(num_classes: int) -> nn.Module:
        return build(weights=None, weights_backbone=None, num_classes=num_classes + 1).eval()

    return builder


FINDERS = (
    "fcos_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
)
CLASSIFIERS = (
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "resnet18",
    "resnet50",
    "convnext_tiny",
    "vit_b_16",
)

ARCHITECTURES: Mapping[str, Builder] = MappingProxyType(
    {
        "fcos_small": fcos_small,
        "sam_small": sam_small,
        "vit_b": _stock_sam(build_sam_vit_b),
        "vit_l": _stock_sam(build_sam_vit_l),
        "vit_h": _stock_sam(build_sam_vit_h),
        "small_classifier": small_classifier,
        "maskrcnn_small": maskrcnn_small,
        "lraspp_mobilenet_v3_large": _semantic(segmentation.lraspp_mobilenet_v3_large),
        "deeplabv3_mobilenet_v3_large": _semantic(segmentation.deeplabv3_mobilenet_v3_large),
        "deeplabv3_resnet50": _semantic(segmentation.deeplabv3_resnet50),
        **{name: _finder(name) for name in FINDERS},
        **{name: _classifier(name) for name in CLASSIFIERS},
    }
)
