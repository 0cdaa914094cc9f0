"""Drawn plants of many kinds, as small transparent pictures to be placed into a scene.

A plant is drawn once, seen from above, pointing nowhere in particular: the scene turns, scales and pastes it.
Colours and proportions belong to a `Species`, so that the plants of one tray look alike, as they do in a
nursery.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from consumer.local.scene_leaves import Brush, Species, shade

PLANT_KINDS = ("rosette", "echeveria", "cactus", "nopal", "grass", "seedling", "broadleaf", "herb", "aloe")

REDDISH = {"echeveria": 0.15, "aloe": 0.05, "rosette": 0.04, "broadleaf": 0.04, "grass": 0.03}  # how often

GOLDEN_ANGLE = 2.39996  # the turn between one leaf and the next in most real rosettes
ROSETTE_LEAVES = (("paddle", 0.35), ("spoon", 0.65), ("oval", 0.85), ("lobed", 1.0))


def species(rng: np.random.Generator, kind: str | None = None, *, tame: bool = False) -> Species:
    """Draw a species: mostly green, sometimes bluish, yellowish, or reddish as some succulents are.

    Args:
        rng: Source of randomness.
        kind: One of `PLANT_KINDS`; drawn by lot if not given.
        tame: Neither dark nor dull, so that it can be told from any soil.
    """
    kind = kind or str(rng.choice(PLANT_KINDS, p=(0.2, 0.1, 0.1, 0.05, 0.08, 0.17, 0.12, 0.1, 0.08)))
    hue, saturation, value = rng.uniform(0.2, 0.37), rng.uniform(0.3, 0.85), rng.uniform(0.35, 0.95)
    if kind in ("echeveria", "aloe", "cactus", "nopal"):
        hue, saturation, value = rng.uniform(0.22, 0.5), rng.uniform(0.12, 0.6), rng.uniform(0.3, 0.85)
    if rng.random() < REDDISH.get(kind, 0.0):
        hue, saturation, value = rng.uniform(-0.12, 0.1), rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7)
        if tame:  # purple to red: the warmer half, if dull, is the brown of soil
            hue = -0.12 + (hue + 0.12) * 0.45
        hue %= 1.0
    flower = tuple(int(v) for v in rng.uniform(120, 255, 3)) if rng.random() < 0.06 else None
    return Species(
        kind=kind,
        hue=float(hue),
        saturation=float(max(saturation, 0.3 if tame else 0.0)),
        value=float(max(value, 0.5 if tame else 0.0)),
        fullness=float(rng.random()),
        width=float(rng.random()),
        tip=float(rng.choice((rng.uniform(0.55, 0.9), rng.uniform(1.1, 1.4)))),
        flower=(flower[0], flower[1], flower[2]) if flower else None,
    )


def _rosette(brush: Brush) -> None:
    rng, kind = brush.rng, brush.species
    leaves = 4 + int(kind.fullness * 8) + int(rng.integers(0, 3))
    shape = next(name for name, most in ROSETTE_LEAVES if kind.width < most)
    for index in range(leaves):
        age = 1 - 0.65 * index / leaves
        length = age * rng.uniform(0.8, 1.0)
        width = length * (0.16 + 0.14 * kind.tip * kind.saturation) * rng.uniform(0.85, 1.2)
        turn = index * GOLDEN_ANGLE + rng.normal(0, 0.15)
        brush.leaf(turn, length, width, shape, 1.15 - 0.3 * age, bend=rng.normal(0, 0.06))


def _echeveria(brush: Brush) -> None:
    kind = brush.species
    leaves = 14 + int(kind.fullness * 26)
    for index in range(leaves):
        age = 1 - 0.85 * index / leaves
        width = (0.15 + 0.16 * kind.width) * (0.35 + 0.65 * age)
        brush.leaf(index * GOLDEN_ANGLE, age, width, "fleshy", 0.75 + 0.4 * (1 - age))


def _cactus(brush: Brush) -> None:
    rng, kind = brush.rng, brush.species
    heads = [(0.0, 0.0, rng.uniform(0.85, 1.0))]
    if kind.fullness > 0.8:
        heads = [
            (rng.uniform(-0.45, 0.45), rng.uniform(-0.45, 0.45), rng.uniform(0.35, 0.55)) for _ in range(4)
        ]
    ribs = 9 + int(kind.width * 14)
    spine = (235, 225, 190) if kind.tip > 1 else (120, 80, 60)
    for x, y, size in heads:
        brush.disc(x, y, size, size, kind.colour(rng, 0.7))
        start = rng.uniform(0, 6.28)
        for rib in range(ribs):
            angle = start + rib * 2 * np.pi / ribs
            brush.leaf(angle, size * 0.97, size * 2.2 / ribs, "oval", 1.0, (x, y))
            for far in np.linspace(0.3, 0.95, 5) if brush.radius > 12 else ():
                dot = max(0.02, 0.7 / brush.radius)
                brush.disc(x + size * far * np.cos(angle), y + size * far * np.sin(angle), dot, dot, spine)
        brush.disc(x, y, size * 0.12, size * 0.12, shade(kind.colour(rng), kind.tip))


def _nopal(brush: Brush) -> None:
    rng, kind = brush.rng, brush.species
    for pad in range(3 + int(kind.fullness * 4)):
        angle = pad * GOLDEN_ANGLE + rng.normal(0, 0.3)
        start = rng.uniform(0.0, 0.25)
        base = (start * np.cos(angle), start * np.sin(angle))
        length = rng.uniform(0.6, 0.75)
        width = length * (0.36 + 0.12 * kind.width)
        brush.leaf(angle, length, width, "oval", rng.uniform(0.8, 1.1), base)
        for _ in range(14 if brush.radius > 10 else 0):
            along, across = rng.uniform(0.15, 0.85) * length, rng.uniform(-0.5, 0.5) * width
            x = base[0] + along * np.cos(angle) - across * np.sin(angle)
            y = base[1] + along * np.sin(angle) + across * np.cos(angle)
            dot = max(0.018, 0.7 / brush.radius)
            brush.disc(x, y, dot, dot, (230, 220, 180) if kind.tip > 1 else (110, 70, 50))


def _grass(brush: Brush) -> None:
    rng, kind = brush.rng, brush.species
    for _ in range(14 + int(kind.fullness * 30)):
        base = (rng.normal(0, 0.06), rng.normal(0, 0.06))
        length = rng.uniform(0.45, 0.95)
        width = 0.02 + 0.025 * kind.width
        brush.leaf(
            rng.uniform(0, 6.28), length, width, "blade", rng.uniform(0.7, 1.15), base, rng.normal(0, 0.2)
        )


def _seedling(brush: Brush) -> None:
    rng, kind = brush.rng, brush.species
    start = rng.uniform(0, 6.28)
    width = 0.2 + 0.2 * kind.width
    for index in range(2 + (2 if kind.fullness > 0.45 else 0) + (1 if kind.fullness > 0.8 else 0)):
        turn = start + (index % 2) * np.pi + (index // 2) * np.pi / 2 + rng.normal(0, 0.12)
        length = rng.uniform(0.75, 1.0) * (1.0 if index < 2 else rng.uniform(0.4, 0.9))
        shape = "paddle" if kind.saturation < 0.5 else "spoon" if kind.tip < 1 else "oval"
        brush.leaf(turn, length, length * width, shape, rng.uniform(0.9, 1.1), bend=rng.normal(0, 0.05))


def _broadleaf(brush: Brush) -> None:
    rng, kind = brush.rng, brush.species
    leaves = 4 + int(kind.fullness * 5)
    for index in range(leaves):
        turn = index * GOLDEN_ANGLE + rng.normal(0, 0.15)
        length = (1 - 0.4 * index / leaves) * rng.uniform(0.85, 1.0)
        width = length * (0.27 + 0.18 * kind.width)
        brush.leaf(turn, length, width, "lance", rng.uniform(0.8, 1.15), bend=rng.normal(0, 0.08), veins=4)


def _herb(brush: Brush) -> None:
    rng, kind = brush.rng, brush.species
    stems = 5 + int(kind.fullness * 7)
    for stem in range(stems):
        turn = stem * 2 * np.pi / stems + rng.normal(0, 0.2)
        reach = rng.uniform(0.55, 0.85)
        for far in np.linspace(reach, 0.05, 5):
            base = (far * np.cos(turn), far * np.sin(turn))
            for side in (-1.1, 0.0, 1.1):
                size = rng.uniform(0.16, 0.3)
                light = 0.65 + 0.5 * (1 - far) + rng.normal(0, 0.1)
                brush.leaf(turn + side, size, size * (0.25 + 0.25 * kind.width), "oval", light, base)


def _aloe(brush: Brush) -> None:
    rng, kind = brush.rng, brush.species
    leaves = 6 + int(kind.fullness * 9)
    for index in range(leaves):
        age = 1 - 0.5 * index / leaves
        length = age * rng.uniform(0.85, 1.0)
        width = (0.07 + 0.08 * kind.width) * (0.6 + 0.4 * age)
        turn = index * GOLDEN_ANGLE + rng.normal(0, 0.08)
        brush.leaf(turn, length, width, "wedge", 1.2 - 0.4 * age, bend=rng.normal(0, 0.05))


PAINTERS: dict[str, Callable[[Brush], None]] = {
    "rosette": _rosette,
    "echeveria": _echeveria,
    "cactus": _cactus,
    "nopal": _nopal,
    "grass": _grass,
    "seedling": _seedling,
    "broadleaf": _broadleaf,
    "herb": _herb,
    "aloe": _aloe,
}


def draw_plant(rng: np.random.Generator, kind: Species, side: int) -> Image.Image:
    """Draw one plant.

    Args:
        rng: Source of what differs from plant to plant.
        kind: Its species.
        side: Side of the square picture in pixels.

    Returns:
        An RGBA picture, transparent outside the plant.
    """
    side = max(side, 12)
    picture = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    brush = Brush(ImageDraw.Draw(picture), side / 2, side / 2 - 1, rng, kind)
    PAINTERS[kind.kind](brush)
    if kind.flower:
        for _ in range(int(rng.integers(1, 4))):
            x, y = rng.normal(0, 0.2, 2)
            brush.disc(float(x), float(y), 0.12, 0.12, kind.flower)
    # Leaves are not evenly lit: a coarse noise over the plant, brighter on one side.
    lit = rng.normal(1.0, 0.11, (6, 6, 1)) + np.linspace(-0.1, 0.1, 6)[:, None, None]
    light = Image.fromarray(np.clip(lit[..., 0] * 160, 0, 255).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(picture).astype(np.float32)
    pixels[..., :3] *= np.asarray(light, dtype=np.float32)[..., None] / 160
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
