"""Give each detection a size among its neighbours: S, M, L or XL."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline_steps.artifacts import Boxes, Detections, Image, Size, Sizes
from pipeline_steps.errors import InvalidInput
from pipeline_steps.geometry import Floats, area, centres
from pipeline_steps.registry import Kinds, StepParams, only_size, step

SizeIds: TypeAlias = npt.NDArray[np.int8]

MODAL_HEIGHTS = (45.0, 60.0, 80.0)
"""Median heights in pixels below which most plants are S, M, L; from the last on they are XL."""
SAME = 1e-4
"""A standard deviation below this share of the mean is the rounding of float32, not a difference."""


class SizeCalculatorParams(StepParams):
    """By which rule."""

    mode: Literal["flat", "band"] = Field(
        default="flat",
        description="`flat`: by area among all detections. `band`: by height, evened out between bands of "
        "the picture that lie nearer and farther.",
    )
    bands: int = Field(default=4, ge=1, le=64, description="`band`: horizontal bands of equal height.")

    def needs(self) -> Kinds:
        """The picture, whose height is divided into bands."""
        return frozenset({Image}) if self.mode == "band" else frozenset()


@step("size_calculator", only_shows=only_size)
def calculate(detections: Detections, image: Image | None, params: SizeCalculatorParams) -> Sizes:
    """Give each detection a size among its neighbours: S, M, L or XL.

    `flat`: z is how many (population) standard deviations a box's area is off the mean: z < -2 is S, up to 1
    is M, up to 2 is L, above is XL. One detection, or all of one area, are M.

    `band`: heights are first evened out: each is multiplied by the median of all heights over the median of
    its band (by the box's centre). The usual size follows from the median height: below 45 px S, 60 M, 80 L,
    else XL. Then z of the evened height: z < -2 is S, z < -1 one size under the usual, up to 1 the usual, up
    to 2 one above it, more is XL.

    Raises:
        InvalidInput: mode `band` without a picture.
    """
    if params.mode == "flat":
        return Sizes(detections.id, flat(detections.xyxy))
    if image is None:
        raise InvalidInput("mode 'band' divides the picture's height, and there is no picture")
    return Sizes(detections.id, banded(detections.xyxy, image, params.bands))


def flat(xyxy: Boxes) -> SizeIds:
    """Return each box's size by the z-score of its area."""
    z = _z(area(xyxy))
    return np.select([z < -2, z <= 1, z <= 2], [Size.S, Size.M, Size.L], Size.XL).astype(np.int8)


def banded(xyxy: Boxes, image: Image, bands: int) -> SizeIds:
    """Return each box's size by its height among those in the same band of the picture."""
    if len(xyxy) == 0:
        return np.zeros(0, np.int8)
    height = (xyxy[:, 3] - xyxy[:, 1]).astype(np.float64)
    down = (centres(xyxy)[:, 1] - image.y) / image.height * bands
    band = np.clip(down.astype(np.int64), 0, bands - 1)
    middle = float(np.median(height))
    even = height.copy()
    for one in np.unique(band):
        inside = band == one
        usual = float(np.median(height[inside]))
        if usual > 0:
            even[inside] *= middle / usual

    modal = int(Size.S) + int(np.searchsorted(MODAL_HEIGHTS, middle, side="right"))
    below, above = max(modal - 1, Size.S), min(modal + 1, Size.XL)
    z = _z(even)
    sizes = np.select([z < -2, z < -1, z <= 1, z <= 2], [Size.S, below, modal, above], Size.XL)
    return sizes.astype(np.int8)


def _z(values: Floats) -> Floats:
    """Return how many population standard deviations each value is off the mean; 0 if all are the same."""
    if len(values) == 0:
        return values
    mean, deviation = values.mean(), values.std()
    if deviation <= SAME * abs(mean):
        return np.zeros_like(values)
    # Four equal plants and a larger one lie at exactly 2: what is on a boundary stays there.
    z: Floats = np.round((values - mean) / deviation, 9)
    return z
