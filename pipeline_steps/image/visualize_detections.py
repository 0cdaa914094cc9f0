"""Draw what was found on the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from pydantic import Field

from pipeline_steps.artifacts import (
    Boxes,
    Detections,
    Image,
    Mask,
    Overlay,
    PlantEstimates,
    Segments,
    Size,
    Sizes,
)
from pipeline_steps.geometry import overlaps
from pipeline_steps.regions import eroded
from pipeline_steps.registry import StepParams, step

Colour: TypeAlias = tuple[int, int, int]
Corners: TypeAlias = tuple[float, float, float, float]

SIZE_COLOURS: Mapping[Size, Colour] = MappingProxyType(
    {Size.S: (0, 0, 255), Size.M: (0, 255, 0), Size.L: (255, 165, 0), Size.XL: (255, 0, 0)}
)
SEGMENT_COLOURS: Sequence[Colour] = (
    (255, 255, 255),
    (0, 220, 255),
    (255, 120, 200),
    (255, 235, 60),
    (190, 130, 255),
)
"""For the segments' labels, in alphabetical order; none of them is a size's."""
DARK: Colour = (16, 20, 24)
WHITE: Colour = (255, 255, 255)
LARGEST_MARGIN = 0.9
"""The caption takes at most this share of the picture's width."""


class VisualizeParams(StepParams):
    """What is written beside the boxes."""

    labels: bool = Field(default=False, description="Write each detection's label and score above its box.")
    caption: bool = Field(
        default=True, description="Write the number of detections in a corner that hides few of them."
    )


@step("visualize_detections")
def visualize(
    image: Image,
    detections: Detections | None,
    sizes: Sizes | None,
    segments: Segments | None,
    estimates: PlantEstimates | None,
    params: VisualizeParams,
) -> Overlay:
    """Draw what was found on the picture: boxes by size, segments outlined, the count in a corner.

    S is blue, M green, L orange, XL red; detections without a size are green. Lines and letters grow with the
    picture. The count stands in the upper left corner, or in another one if it hides fewer detections there.
    A picture with nothing on it is drawn too (`Detections: 0`), because a later upload expects one.
    """
    found = detections if detections is not None else Detections.none()
    line = max(1, round(max(image.width, image.height) / 640))
    letters = max(9, round((image.width * image.height) ** 0.5 / 44))
    canvas = Pillow.fromarray(image.pixels)
    if segments is not None:
        _outline_segments(canvas, image, segments, line)
    pen = ImageDraw.Draw(canvas, "RGBA")
    _draw_boxes(pen, image, found, sizes, line, letters if params.labels else 0)
    if segments is not None:
        _name_segments(pen, image, segments, found, line, letters)
    if params.caption:
        _draw_caption(pen, image, found, sizes, estimates, letters)
    return Overlay(np.asarray(canvas))


def _outline(canvas: Pillow.Image, mask: Mask, image: Image, colour: Colour, line: int) -> None:
    """Draw the mask's border, with a dark seam inside it that sets it off from light ground."""
    corner = mask.x - image.x, mask.y - image.y
    bits = np.pad(mask.bits, 1)
    kept = bits
    for paint, width, strength in ((colour, line, 255), (DARK, line + max(1, line // 3), 128)):
        inner = eroded(bits, width)
        border = (kept & ~inner)[1:-1, 1:-1]
        canvas.paste(paint, corner, Pillow.fromarray(border.astype(np.uint8) * np.uint8(strength)))
        kept = inner


def _segment_colours(segments: Segments) -> list[Colour]:
    labels = sorted(set(segments.label.tolist()))
    return [SEGMENT_COLOURS[labels.index(label) % len(SEGMENT_COLOURS)] for label in segments.label.tolist()]


def _outline_segments(canvas: Pillow.Image, image: Image, segments: Segments, line: int) -> None:
    pen = ImageDraw.Draw(canvas, "RGBA")
    shapes = zip(_local(segments.xyxy, image), segments.mask, _segment_colours(segments), strict=True)
    for box, mask, colour in shapes:
        if mask is not None:
            _outline(canvas, mask, image, colour, 2 * line)
        else:
            pen.rectangle(box, outline=(*DARK, 150), width=3 * line)
            pen.rectangle(box, outline=colour, width=2 * line)


def _name_segments(
    pen: ImageDraw.ImageDraw, image: Image, segments: Segments, found: Detections, line: int, letters: int
) -> None:
    font = ImageFont.load_default(letters)
    colours = _segment_colours(segments)
    for row, (x1, _, _, y2) in enumerate(_local(segments.xyxy, image)):
        held = int((found.segment == segments.id[row]).sum())
        text = f"{segments.label[row]}  {held}" if held else str(segments.label[row])
        _tag(pen, image, (x1 + 2 * line, y2 - 2 * line), text, font, colours[row])


def _draw_boxes(
    pen: ImageDraw.ImageDraw, image: Image, found: Detections, sizes: Sizes | None, line: int, letters: int
) -> None:
    font = ImageFont.load_default(max(8, round(letters * 0.7))) if letters else None
    size_of = _size_of(sizes)
    for row, box in enumerate(_local(found.xyxy, image)):
        colour = SIZE_COLOURS[size_of.get(int(found.id[row]), Size.M)]
        # A line thicker than a sixth of the plant would hide it.
        width = max(1, min(2 * line, round(min(box[2] - box[0], box[3] - box[1]) / 6)))
        pen.rectangle(box, fill=(*colour, 30), outline=(*DARK, 150), width=width + max(1, width // 2))
        pen.rectangle(box, outline=(*colour, 255), width=width)
        if font is not None:
            text = f"{found.label[row]} {found.score[row]:.2f}"
            _tag(pen, image, (box[0], box[1]), text, font, colour)


def _draw_caption(
    pen: ImageDraw.ImageDraw,
    image: Image,
    found: Detections,
    sizes: Sizes | None,
    estimates: PlantEstimates | None,
    letters: int,
) -> None:
    """Write the count, and below it how many there are of each size, on a dark plate."""
    headline = f"Detections: {len(found)}"
    if estimates is not None:
        headline += f"  + {int(estimates.count.sum())} estimated"
    legend = [(size, f"{size.name} {_number_of(sizes, size)}") for size in Size] if sizes is not None else []

    # Laid out for the size wanted; should that be too wide for the picture, once more for one that fits.
    for _ in range(2):
        font, small = (ImageFont.load_default(max(1, round(letters * part))) for part in (1.5, 1.1))
        chip, gap, pad = 0.8 * letters, 1.1 * letters, 0.7 * letters
        steps = [chip + 0.4 * letters + small.getlength(text) + gap for _, text in legend]
        width = max(font.getlength(headline), sum(steps) - gap) + 2 * pad
        if width + pad <= LARGEST_MARGIN * image.width:
            break
        letters = max(1, int(letters * LARGEST_MARGIN * image.width / (width + pad)))

    height = 2 * pad + 1.6 * letters + (1.8 * letters if legend else 0)
    left, top = _emptiest_corner(image, found, pad, width, height)
    pen.rounded_rectangle((left, top, left + width, top + height), radius=pad, fill=(*DARK, 205))
    pen.text((left + pad, top + pad + 0.8 * letters), headline, font=font, fill=WHITE, anchor="lm")
    x, y = left + pad, top + pad + 2.6 * letters
    for (size, text), step_to_next in zip(legend, steps, strict=True):
        plate = (x, y - chip / 2, x + chip, y + chip / 2)
        pen.rectangle(plate, fill=SIZE_COLOURS[size], outline=WHITE, width=max(1, letters // 16))
        pen.text((x + chip + 0.4 * letters, y), text, font=small, fill=WHITE, anchor="lm")
        x += step_to_next


def _emptiest_corner(
    image: Image, found: Detections, margin: float, width: float, height: float
) -> tuple[float, float]:
    """Return where a plate of that size hides the fewest detections; the upper left corner if it can."""
    right, bottom = image.width - margin - width, image.height - margin - height
    places = [(margin, margin), (right, margin), (margin, bottom), (right, bottom)]
    corner = (image.x, image.y)
    plates = [(x, y, x + width, y + height) for x, y in places]
    hidden = overlaps(np.array(plates, np.float32) + np.array([*corner, *corner], np.float32), found.xyxy)
    return places[int((hidden > 0).sum(axis=1).argmin())]


def _tag(
    pen: ImageDraw.ImageDraw,
    image: Image,
    corner: tuple[float, float],
    text: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    colour: Colour,
) -> None:
    """Write `text` on a coloured plate whose lower left is `corner`, moved to stay in the picture."""
    left, top, right, bottom = font.getbbox(text, anchor="ls")
    pad = max(1.0, (bottom - top) / 4)
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = max(0.0, min(corner[0], image.width - width))
    y = max(height, min(corner[1], image.height))
    light = sum(colour) > 3 * 128
    pen.rectangle((x, y - height, x + width, y), fill=(*colour, 220))
    pen.text(
        (x + pad - left, y - pad - bottom),
        text,
        font=font,
        fill=DARK if light else WHITE,
        anchor="ls",
    )


def _local(xyxy: Boxes, image: Image) -> list[Corners]:
    """Return boxes in this image's own frame, both edges inclusive as Pillow draws them."""
    moved = np.rint(xyxy - np.array([image.x, image.y, image.x + 1, image.y + 1]))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in moved.tolist()]


def _size_of(sizes: Sizes | None) -> dict[int, Size]:
    if sizes is None:
        return {}
    return {int(one): Size(int(size)) for one, size in zip(sizes.detection, sizes.size, strict=True)}


def _number_of(sizes: Sizes | None, size: Size) -> int:
    return int((sizes.size == size).sum()) if sizes is not None else 0
