"""Pictures as tensors: resized once, on the host, while they are still bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline_steps.artifacts import Pixels
from pipeline_steps.errors import InvalidInput
from pipeline_steps.pictures import Picture, ScaledPhoto

_STRIDE = 32
"""Padded sizes are multiples of this: pictures of nearly one shape share a batch, and what a picture is
answered does not depend on whom it shared it with."""


class Shown(NamedTuple):
    """A picture as a model is shown it."""

    image: Tensor
    """uint8 (3, height, width)."""
    height: int
    width: int
    """Of the picture that was given, in whose frame the answer is."""
    least: float = 0.0
    """Boxes scored lower are not wanted, where boxes are sought."""


def shrunk(picture: Picture, longest: int) -> Shown:
    """Shrink the picture until its longer side is `longest` pixels; a smaller one stays as it is."""
    height, width = picture.shape[:2]
    return picture_at(picture, fitted(height, width, min(longest, max(height, width))))


def picture_at(picture: Picture, size: tuple[int, int]) -> Shown:
    """Return the picture at this height and width, as a tensor.

    Smoothed as Pillow does it: at most one grey level apart. It stays bytes: a 48-megapixel photo is never
    held as floats (576 MB).

    Raises:
        InvalidInput: not uint8 (height, width, 3), or empty.
    """
    image = _as_tensor(decoded(picture, size))
    height, width = picture.shape[:2]
    if tuple(image.shape[1:]) != size:
        image = functional.interpolate(
            image[None], size, mode="bilinear", antialias=True, align_corners=False
        )[0]
    return Shown(image, height, width)


def decoded(picture: Picture, size: tuple[int, int]) -> Pixels:
    """Return the pixels there are of it; of a photo that has fewer than this height and width, all."""
    if not isinstance(picture, ScaledPhoto):
        return picture
    height, width = picture.small.shape[:2]
    return picture.small if height >= size[0] and width >= size[1] else picture.read()


def fitted(height: int, width: int, longest: int) -> tuple[int, int]:
    """Return height and width so that the longer one is `longest`, rounded as segment-anything does."""
    scale = longest / max(height, width, 1)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def padded(side: int) -> int:
    """Return the size, in pixels, that a side is padded to."""
    return math.ceil(side / _STRIDE) * _STRIDE


def normalised(images: Sequence[Tensor], height: int, width: int, mean: Tensor, std: Tensor) -> Tensor:
    """Return uint8 images as one float batch (n, 3, height, width); what they do not fill is 0.

    Args:
        images: each (3, h, w), on the host: bytes go to the device, a quarter of what floats would be.
        height: of the batch, in pixels.
        width: of the batch, in pixels.
        mean: (3, 1, 1) of 0 to 255, on the device.
        std: likewise.
    """
    shape = len(images), 3, height, width
    batch = torch.empty(shape, device=mean.device, memory_format=torch.channels_last)
    if any(image.shape[1:] != (height, width) for image in images):
        batch.zero_()
    for place, image in zip(batch, images, strict=True):
        _, rows, columns = image.shape
        # Line by line, as pixels lie in photos and in the batch: red, green, blue, red and so on.
        lines = place.permute(1, 2, 0)[:rows, :columns].view(rows, 3 * columns)
        lines.copy_(image.to(mean.device, non_blocking=True).permute(1, 2, 0).flatten(1))
        lines.sub_(mean.flatten().repeat(columns)).div_(std.flatten().repeat(columns))
    return batch


def of_bytes(values: Sequence[float], device: torch.device) -> Tensor:
    """Return a mean or deviation for RGB in 0 to 1 as `normalised` takes it."""
    return 255 * torch.tensor(values, device=device).view(3, 1, 1)


def _as_tensor(pixels: Pixels) -> Tensor:
    """Return the pixels as uint8 (3, height, width), sharing their memory where torch allows it."""
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape or pixels.dtype != "uint8":
        raise InvalidInput(f"expected pixels of uint8 (height, width, 3), got {pixels.dtype} {pixels.shape}")
    if not pixels.flags.writeable or min(pixels.strides) < 0:
        pixels = pixels.copy()  # torch knows no read-only memory, and no mirrored views
    return torch.from_numpy(pixels).permute(2, 0, 1)
