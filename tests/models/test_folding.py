"""Batch normalisation in the convolution before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.ops import FrozenBatchNorm2d, misc

import consumer.local
from consumer.models.architectures import ARCHITECTURES
from consumer.models.folding import fold_normalisations
from consumer.models.manifest import load_manifest
from consumer.models.torch_loader import CONVOLUTIONAL, ready_to_answer
from consumer.models.weights import load
from pipeline_steps.models import ModelKind
from tests.models.random_models import network, photo

MODELS = Path(consumer.local.__file__).parent / "models"


def lived(model: nn.Module) -> nn.Module:
    """Return the network with normalisations as training leaves them, not as they are made."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            module.weight.copy_(torch.rand_like(module.weight) + 0.5)
            module.bias.copy_(torch.randn_like(module.bias) / 10)
            module.running_mean.copy_(torch.randn_like(module.running_mean) / 10)  # type: ignore[union-attr]
            module.running_var.copy_(torch.rand_like(module.running_var) + 0.5)  # type: ignore[union-attr]
    return model.eval()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_a_folded_convolution_is_the_convolution_and_its_normalisation(
    kind: type[nn.Module], bias: bool
) -> None:
    pair = lived(nn.Sequential(nn.Conv2d(6, 9, 3, stride=2, padding=1, groups=3, bias=bias), kind(9)))
    seen = torch.randn(2, 6, 15, 11)
    expected = pair(seen)

    assert fold_normalisations(pair) == 1

    assert isinstance(pair[1], nn.Identity)
    torch.testing.assert_close(pair(seen), expected, atol=1e-5, rtol=1e-5)


def normalisations(model: nn.Module) -> int:
    return sum(isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)) for module in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v3_small", "efficientnet_b0"])
def test_whole_classifiers_answer_the_same(name: str) -> None:
    model = lived(get_model(name, weights=None, num_classes=5))
    seen = torch.randn(2, 3, 64, 64)
    expected = model(seen)

    folded = fold_normalisations(model)

    assert folded > 15
    assert normalisations(model) == 0
    torch.testing.assert_close(model(seen), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("architecture", ["fcos_small", "maskrcnn_small", "maskrcnn_resnet50_fpn"])
def test_detectors_see_the_same_features(architecture: str) -> None:
    model: Any = lived(network(architecture, 2))
    seen = torch.rand(1, 3, 96, 128)
    expected = model.backbone(seen)

    fold_normalisations(model)
    model.to(memory_format=torch.channels_last)

    assert normalisations(model) == 0
    for name, features in model.backbone(seen).items():
        largest = float(expected[name].abs().max())
        torch.testing.assert_close(features, expected[name], atol=1e-5 * largest, rtol=1e-4)


def test_the_demo_detector_finds_the_same_plants() -> None:
    manifest = load_manifest(MODELS)
    plants = manifest.models["plants"]
    stock: Any = load(plants, MODELS / plants.weights, ARCHITECTURES)
    folded: Any = ready_to_answer(plants, MODELS / plants.weights, ARCHITECTURES)
    seen = torch.from_numpy(photo(256, 320)).permute(2, 0, 1).float() / 255

    (expected,), (found,) = stock([seen]), folded([seen])

    assert len(expected["boxes"]) > 0
    for name in ("boxes", "scores"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)


class Twice(nn.Sequential):
    """Its children are not run one after the other."""

    def forward(self, seen: Tensor) -> Tensor:
        return self[1](self[0](self[0](seen)))  # type: ignore[no-any-return]


def test_what_is_not_known_to_follow_a_convolution_is_left_alone() -> None:
    learning = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    others = [
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        Twice(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
    ]

    assert [fold_normalisations(other.eval()) for other in others] == [0] * len(others)
    assert fold_normalisations(learning.train()) == 0


def test_convolutional_kinds_are_those_without_transformers() -> None:
    assert ModelKind.SAM not in CONVOLUTIONAL
    assert ModelKind.TORCHSCRIPT not in CONVOLUTIONAL
    assert issubclass(misc.Conv2dNormActivation, nn.Sequential)  # what torchvision's networks are made of
