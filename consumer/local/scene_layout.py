"""How a scene is laid out, flat and seen from straight above: containers, cells, pots, plants."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from consumer.local.scene_grounds import SOILS, ground, pick, surface
from consumer.local.scene_leaves import Colour, Species, shade
from consumer.local.scene_objects import (
    CONTAINER_LABELS,
    POTS,
    Rectangle,
    clutter,
    container,
    drop_shadow,
    plant_label,
)
from consumer.local.scene_plants import draw_plant, species

MIXTURES = (0.65, 0.2, 0.15)  # how often one, two or four species share a container


@dataclass(slots=True)
class Canvas:
    """The flat scene while it is being laid out."""

    picture: Image.Image
    plants: NDArray[np.int32]
    containers: NDArray[np.int32]
    unit: float
    kinds: list[str] = field(default_factory=list)
    areas: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


def new_canvas(rng: np.random.Generator, size: tuple[int, int], pitch: float, odd: float = 0.0) -> Canvas:
    """An empty canvas with its ground; a crumb of the ground is small against a plant."""
    tall, wide = size
    unit = max(1.0, pitch / 30)
    maps = np.zeros((2, tall, wide), dtype=np.int32)
    return Canvas(ground(rng, tall, wide, unit, odd), maps[0], maps[1], unit)


def container_places(
    rng: np.random.Generator, wide: int, tall: int, pitch: float
) -> list[tuple[Rectangle, str]]:
    """Where containers stand in a training scene: regularly, and some beyond the edge of the picture."""
    if rng.random() < 0.45:  # one that fills the picture, or more than it
        size: NDArray[np.floating[Any]] = np.array([wide, tall]) * rng.uniform(0.6, 2.2, 2)
    else:
        size = (rng.integers((2, 2), (9, 7)) + 0.6) * pitch
        if rng.random() < 0.3:  # a long bed
            size[int(rng.integers(2))] *= rng.uniform(2, 6)
    gap = pitch * rng.uniform(0.1, 1.5)
    start = np.array([wide, tall]) * rng.uniform(-0.3, 0.6, 2) - size * rng.uniform(0, 1.0)
    labels = rng.choice(CONTAINER_LABELS, 3) if rng.random() < 0.5 else [rng.choice(CONTAINER_LABELS)]
    skip = rng.uniform(0, 0.4)
    places = []
    for top in np.arange(start[1], tall, size[1] + gap):
        for left in np.arange(start[0], wide, size[0] + gap):
            inside = left + size[0] > 0.1 * pitch and top + size[1] > 0.1 * pitch
            if inside and rng.random() > skip:
                shift = rng.normal(0, gap * 0.15, 2)
                area = Rectangle(
                    left + shift[0], top + shift[1], left + size[0] + shift[0], top + size[1] + shift[1]
                )
                places.append((area, str(rng.choice(labels))))
    return places


def fill_container(
    rng: np.random.Generator,
    canvas: Canvas,
    area: Rectangle,
    label: str,
    pitch: float,
    *,
    empty: bool = False,
    tame: bool = False,
) -> None:
    """Draw one container with what stands in it, and remember it.

    Args:
        rng: Source of randomness.
        canvas: What is drawn on.
        area: Outer edge of the container.
        label: One of `CONTAINER_LABELS`.
        pitch: Distance between plants in pixels.
        empty: Without any plant.
        tame: As a nursery would show it: plants well grown, of a size, on dark soil, few missing.
    """
    tall, wide = canvas.plants.shape
    picture = canvas.picture
    rim = pitch * rng.uniform(0.08, 0.3)
    if rng.random() < 0.7:
        drop_shadow(picture, area, pitch * rng.uniform(-0.15, 0.25), rng.uniform(0.2, 0.6))
    colour = container(rng, picture, area, label, rim)
    canvas.labels.append(label)
    left, top, right, bottom = (round(v) for v in area.corners)
    canvas.containers[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = len(canvas.labels)

    inner = area.inset(rim)
    columns = max(1, int((inner.right - inner.left) / pitch))
    rows = max(1, int((inner.bottom - inner.top) / pitch))
    step_x, step_y = (inner.right - inner.left) / columns, (inner.bottom - inner.top) / rows
    style = "soil" if label == "segmento" else str(rng.choice(("cells", "pots", "soil"), p=(0.6, 0.32, 0.08)))
    places = [
        (inner.left + step_x * (column + 0.5), inner.top + step_y * (row + 0.5))
        for row in range(rows)
        for column in range(columns)
        if -pitch < inner.left + step_x * (column + 0.5) < wide + pitch
        and -pitch < inner.top + step_y * (row + 0.5) < tall + pitch
    ]
    half = min(step_x, step_y) * rng.uniform(0.38, 0.49)
    wall = shade(colour, rng.uniform(0.6, 1.1))
    _holes(rng, canvas, inner, places, half, style, (step_x, step_y), wall, SOILS[:5] if tame else SOILS)
    step = min(step_x, step_y)
    if tame:
        missing, reach = rng.uniform(0, 0.2), step * rng.uniform(0.28, 0.42)
    else:
        missing = rng.choice((0.0, rng.uniform(0, 0.5), rng.uniform(0.5, 1.0)), p=(0.3, 0.55, 0.15))
        reach = step * rng.uniform(0.16, 0.6)
    kept = [place for place in places if not empty and rng.random() >= missing]
    _grow(rng, canvas, kept, reach, _mix(rng, tame=tame), tame=tame)
    for x, y in places:
        if rng.random() < 0.02:
            plant_label(rng, picture, x + half * 0.6, y - half * 0.6, half)


def _holes(
    rng: np.random.Generator,
    canvas: Canvas,
    inner: Rectangle,
    places: list[tuple[float, float]],
    half: float,
    style: str,
    step: tuple[float, float],
    colour: Colour,
    soils: tuple[Colour, ...] = SOILS,
) -> None:
    """Fill a container with soil: all over, in cells, or in pots."""
    tall, wide = canvas.plants.shape
    draw = ImageDraw.Draw(canvas.picture)
    mask = Image.new("L", (wide, tall), 0)
    holes = ImageDraw.Draw(mask)
    if style == "soil":
        holes.rectangle(inner.corners, fill=255)
    round_hole = rng.random() < (0.65 if style == "pots" else 0.3)
    half_x, half_y = (
        (half, half)
        if round_hole or style == "pots"
        else (half * step[0] / min(step), half * step[1] / min(step))
    )
    wall = half * rng.uniform(0.04, 0.2)
    pots = [pick(rng, POTS, 6) for _ in range(int(rng.integers(1, 3)))]
    for x, y in places if style != "soil" else ():
        outer = Rectangle(x - half_x, y - half_y, x + half_x, y + half_y)
        tone = pots[int(rng.integers(len(pots)))] if style == "pots" else shade(colour, 0.7)
        if round_hole:
            draw.ellipse(outer.corners, fill=tone, outline=shade(tone, 1.3), width=max(1, int(wall / 3)))
            holes.ellipse(outer.inset(wall).corners, fill=255)
        else:
            draw.rounded_rectangle(
                outer.corners, half * 0.15, fill=tone, outline=shade(tone, 1.3), width=max(1, int(wall / 3))
            )
            holes.rounded_rectangle(outer.inset(wall).corners, half * 0.15, fill=255)
    filled = mask.getbbox()
    if filled:
        speckle = rng.choice((0.0, rng.uniform(0.01, 0.08), rng.uniform(0.08, 0.25)))
        crumb = canvas.unit * rng.uniform(0.4, 1.5)
        shape = (filled[3] - filled[1], filled[2] - filled[0])
        earth = surface(rng, *shape, pick(rng, soils), rng.uniform(0.2, 1.4), crumb, speckle)
        canvas.picture.paste(earth, filled[:2], mask.crop(filled))


def plant_loose(rng: np.random.Generator, canvas: Canvas, pitch: float) -> None:
    """Plants without a container: on the ground, in rows, or in pots that stand about."""
    tall, wide = canvas.plants.shape
    if rng.random() < 0.5:
        xs, ys = np.meshgrid(
            np.arange(rng.uniform(0, pitch), wide, pitch), np.arange(rng.uniform(0, pitch), tall, pitch)
        )
        places = [(float(x), float(y)) for x, y in zip(xs.ravel(), ys.ravel(), strict=True)]
    else:
        places = []
        for x, y in rng.uniform((0, 0), (wide, tall), (int(rng.integers(1, 40)), 2)):
            if all((x - a) ** 2 + (y - b) ** 2 > pitch**2 for a, b in places):
                places.append((float(x), float(y)))
    if rng.random() < 0.5:
        _holes(
            rng,
            canvas,
            Rectangle(0, 0, 1, 1),
            places,
            pitch * rng.uniform(0.3, 0.48),
            "pots",
            (pitch, pitch),
            (60, 60, 60),
        )
    elif rng.random() < 0.5:
        canvas.picture.paste(
            surface(
                rng, tall, wide, pick(rng, SOILS), rng.uniform(0.3, 1.4), canvas.unit, rng.uniform(0, 0.1)
            )
        )
    kept = [p for p in places if rng.random() > 0.15]
    _grow(rng, canvas, kept, pitch * rng.uniform(0.2, 0.6), _mix(rng))


def _mix(rng: np.random.Generator, *, tame: bool = False) -> list[Species]:
    """What grows here: mostly one species, sometimes a few."""
    return [species(rng, tame=tame) for _ in range(int(rng.choice((1, 2, 4), p=(0.65, 0.2, 0.15))))]


def _grow(
    rng: np.random.Generator,
    canvas: Canvas,
    places: list[tuple[float, float]],
    reach: float,
    mix: list[Species],
    *,
    tame: bool = False,
) -> None:
    """Set plants of about `reach` pixels radius; later ones may cover earlier ones."""
    if not places:
        return
    tall, wide = canvas.plants.shape
    side = int(np.clip(reach * 3, 24, 260))
    bank = [
        (kind.kind, draw_plant(rng, kind, side))
        for kind in mix
        for _ in range(max(2, min(8, len(places)) // len(mix)))
    ]
    uneven, smallest = (rng.uniform(0.03, 0.15), 0.7) if tame else (rng.uniform(0.03, 0.35), 0.35)
    shadow, dark = rng.uniform(-0.25, 0.25, 2), rng.uniform(0.1, 0.6)
    for x, y in places:
        kind, sprite = bank[int(rng.integers(len(bank)))]
        size = max(6, int(2 * reach * np.clip(rng.normal(1, uneven), smallest, 1.25)))
        sprite = sprite.rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR).resize(
            (size, size), Image.Resampling.BOX
        )
        left, top = (int(v + rng.normal(0, reach * 0.12) - size / 2) for v in (x, y))
        alpha = sprite.getchannel("A")
        canvas.picture.paste(
            (10, 12, 10),
            (left + int(shadow[0] * reach), top + int(shadow[1] * reach)),
            alpha.point([int(v * dark) for v in range(256)]),
        )
        canvas.picture.paste(sprite, (left, top), alpha)
        solid = np.asarray(alpha) > 110
        canvas.kinds.append(kind)
        canvas.areas.append(int(solid.sum()))
        rows = slice(min(tall, max(0, top)), min(tall, max(0, top + size)))
        columns = slice(min(wide, max(0, left)), min(wide, max(0, left + size)))
        if rows.start < rows.stop and columns.start < columns.stop:
            shown = solid[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            canvas.plants[rows, columns][shown] = len(canvas.kinds)


def scatter_under(rng: np.random.Generator, canvas: Canvas) -> None:
    """Add clutter that leaves plants alone: it lies beneath them, over ground and containers alike."""
    before = np.asarray(canvas.picture)
    after = canvas.picture.copy()
    clutter(rng, after, canvas.unit)
    grown = canvas.plants > 0
    canvas.picture = Image.fromarray(np.where(grown[..., None], before, np.asarray(after)))
