"""How leaves are drawn: a species' colours, and a brush that knows leaves of many outlines."""

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

Colour = tuple[int, int, int]

OUTLINE = np.linspace(0.0, 1.0, 9)


@dataclass(frozen=True, slots=True)
class Species:
    """What the plants of one tray share.

    Attributes:
        kind: One of `PLANT_KINDS`.
        hue: Hue of the leaves, 0..1.
        saturation: Saturation of the leaves, 0..1.
        value: Brightness of the leaves, 0..1.
        fullness: 0..1, from few leaves to many.
        width: 0..1, from narrow leaves to wide ones.
        tip: Colour of tips, spines and veins relative to the leaf: below 1 is darker, above is lighter.
        flower: Colour of the flowers, or none.
    """

    kind: str
    hue: float
    saturation: float
    value: float
    fullness: float
    width: float
    tip: float
    flower: Colour | None

    def colour(self, rng: np.random.Generator, lightness: float = 1.0) -> Colour:
        """One leaf's colour: the species' own with the small differences leaves have."""
        red, green, blue = colorsys.hsv_to_rgb(
            (self.hue + rng.normal(0, 0.008)) % 1.0,
            min(max(self.saturation + rng.normal(0, 0.04), 0.05), 1.0),
            min(max(self.value * lightness + rng.normal(0, 0.04), 0.08), 1.0),
        )
        return int(red * 255), int(green * 255), int(blue * 255)


@dataclass(frozen=True, slots=True)
class Brush:
    """Where a plant is drawn: a transparent square with its centre and its radius in pixels."""

    draw: ImageDraw.ImageDraw
    centre: float
    radius: float
    rng: np.random.Generator
    species: Species

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Pixel position of a place given in radii from the centre."""
        return self.centre + x * self.radius, self.centre + y * self.radius

    def disc(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        """Fill an upright ellipse; everything in radii."""
        (left, top), (right, bottom) = self.point(x - rx, y - ry), self.point(x + rx, y + ry)
        self.draw.ellipse((left, top, right, bottom), fill=(*fill, 255))

    def leaf(
        self,
        angle: float,
        length: float,
        width: float,
        shape: str,
        lightness: float = 1.0,
        base: tuple[float, float] = (0.0, 0.0),
        bend: float = 0.0,
        veins: int = 0,
    ) -> None:
        """Draw one leaf: its outline, a half in other light, the midrib and, if asked, side veins.

        Args:
            angle: Direction from the base, radians.
            length: In radii.
            width: Greatest half width, in radii.
            shape: A key of `PROFILES`.
            lightness: Factor on the species' brightness.
            base: Where the leaf begins, in radii from the centre.
            bend: How far the tip is displaced sideways, in radii.
            veins: Number of pairs of side veins.
        """
        cos, sin = np.cos(angle), np.sin(angle)
        along = OUTLINE * length
        middle = bend * OUTLINE**2
        half = PROFILES[shape] * width

        def place(across: np.ndarray) -> list[tuple[float, float]]:
            xs = self.centre + self.radius * (base[0] + along * cos - across * sin)
            ys = self.centre + self.radius * (base[1] + along * sin + across * cos)
            return list(zip(xs.tolist(), ys.tolist(), strict=True))

        left, right, rib = place(middle - half), place(middle + half), place(middle)
        fill = self.species.colour(self.rng, lightness)
        self.draw.polygon(left + right[::-1], fill=(*fill, 255), outline=(*shade(fill, 0.85), 255))
        if self.radius * width < 2:
            return
        self.draw.polygon(left + rib[::-1], fill=(*shade(fill, self.rng.uniform(0.8, 0.97)), 255))
        line = (*shade(fill, self.species.tip), 255)
        thickness = max(1, int(self.radius * 0.025))
        self.draw.line(rib[:-1], fill=line, width=thickness)
        for index in np.linspace(1, len(OUTLINE) - 3, veins).astype(int) if veins else ():
            self.draw.line([rib[index], left[index + 1]], fill=line, width=thickness)
            self.draw.line([rib[index], right[index + 1]], fill=line, width=thickness)


def _profile(*points: float) -> np.ndarray:
    """Half widths at the nine places of `OUTLINE`."""
    return np.interp(OUTLINE, np.linspace(0, 1, len(points)), points)


PROFILES: dict[str, np.ndarray] = {
    "oval": np.sin(np.pi * OUTLINE) ** 0.7,
    "spoon": _profile(0.12, 0.13, 0.14, 0.3, 0.8, 1.0, 0.95, 0.7, 0.0),
    "paddle": _profile(0.06, 0.06, 0.07, 0.08, 0.3, 0.9, 1.0, 0.75, 0.0),
    "lance": np.sin(np.pi * OUTLINE**0.7),
    "fleshy": _profile(0.35, 0.5, 0.7, 0.9, 1.0, 0.95, 0.75, 0.4, 0.0),
    "blade": _profile(0.8, 1.0, 1.0, 0.95, 0.9, 0.75, 0.6, 0.35, 0.0),
    "lobed": _profile(0.1, 0.8, 0.55, 1.0, 0.65, 0.95, 0.5, 0.6, 0.0),
    "wedge": _profile(1.0, 1.0, 0.9, 0.8, 0.7, 0.55, 0.4, 0.2, 0.0),
}


def shade(colour: Colour, factor: float) -> Colour:
    """A colour made darker (below 1) or lighter (above 1)."""
    red, green, blue = (min(255, max(0, int(v * factor))) for v in colour)
    return red, green, blue
