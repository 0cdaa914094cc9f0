"""Batch normalisation folded into the convolution before it: one pass over the pixels less, the same answers.

In a network that answers, a batch normalisation is a fixed affine map of each channel::

    bn(y) = gain * (y - mean) / sqrt(variance + eps) + shift  =  scale * y + (shift - scale * mean)
    where scale = gain / sqrt(variance + eps)

and a convolution is linear in its weights, so that

    bn(conv(x)) = scale * (W * x + b) + shift - scale * mean
                = (scale W) * x + (scale * (b - mean) + shift)

which is a convolution again. The folding is computed in float64; what is left are roundings of float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

Normalisation: TypeAlias = nn.BatchNorm2d | FrozenBatchNorm2d

_RESNET_PAIRS = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))


def fold_normalisations(network: nn.Module) -> int:
    """Fold every batch normalisation that directly follows a convolution, and return how many were.

    They are looked for where torchvision's networks have them: side by side in an `nn.Sequential`, and in the
    blocks and the stem of a ResNet. Whatever else a network has stays as it is.

    Args:
        network: in evaluation mode; changed in place.
    """
    pairs = [pair for module in network.modules() for pair in _pairs(module)]
    for parent, convolution, normalisation in pairs:
        _fold(cast(nn.Conv2d, getattr(parent, convolution)), getattr(parent, normalisation))
        setattr(parent, normalisation, nn.Identity())
    return len(pairs)


def _pairs(module: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Yield the names of a convolution and of the normalisation that alone reads it, among a module's own."""
    names: Iterable[tuple[str, str]] = ()
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        names = itertools.pairwise(name for name, _ in module.named_children())
    elif isinstance(module, (BasicBlock, Bottleneck, ResNet, IntermediateLayerGetter)):
        names = _RESNET_PAIRS
    for first, second in names:
        convolution, normalisation = getattr(module, first, None), getattr(module, second, None)
        if type(convolution) is nn.Conv2d and _is_fixed(normalisation):
            yield module, first, second


def _is_fixed(module: nn.Module | None) -> bool:
    """Say whether it is a batch normalisation that maps every channel as it has learnt to."""
    if isinstance(module, nn.BatchNorm2d):
        return module.affine and module.running_mean is not None and not module.training
    return isinstance(module, FrozenBatchNorm2d)


def _fold(convolution: nn.Conv2d, normalisation: Normalisation) -> None:
    mean, variance = cast(Tensor, normalisation.running_mean), cast(Tensor, normalisation.running_var)
    scale = normalisation.weight.double() / torch.sqrt(variance.double() + normalisation.eps)
    before = 0.0 if convolution.bias is None else convolution.bias.double()
    weight = convolution.weight.double() * scale.view(-1, 1, 1, 1)
    bias = scale * (before - mean.double()) + normalisation.bias.double()
    convolution.weight = _fixed(weight, like=convolution.weight)
    convolution.bias = _fixed(bias, like=convolution.weight)


def _fixed(values: Tensor, *, like: Tensor) -> nn.Parameter:
    return nn.Parameter(values.to(like.dtype), requires_grad=False)
