"""Colours and surfaces of the generated scenes: soil, floors, walls, and what is nothing in particular."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from consumer.local.scene_leaves import Colour, shade

Pixels = NDArray[np.float32]


def palette(codes: str) -> tuple[Colour, ...]:
    """Colours by their hexadecimal codes."""
    return tuple((red, green, blue) for red, green, blue in map(bytes.fromhex, codes.split()))


GROUNDS = palette(
    "6e503c 3c3228 787878 b9b4aa 325a8c 1e1e1e 8c6e5a e1e1e1 96643c 5a5f64 cdbea0 46694b a03c32 f5f5f5"
)
SOILS = palette("3c2d23 231c18 553e2d 6e5541 302a28 784b32 5f5a55 968269")


def pick(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 12.0) -> Colour:
    """One of the colours, a little changed."""
    chosen = colours[int(rng.integers(len(colours)))]
    light = rng.normal(0, spread)
    red, green, blue = (int(min(255, max(0, v + light + rng.normal(0, spread / 4)))) for v in chosen)
    return red, green, blue


def any_colour(rng: np.random.Generator) -> Colour:
    """Any colour at all, often green: what is green and no plant must teach the detector something."""
    red, green, blue = (int(v) for v in rng.uniform(0, 255, 3))
    if rng.random() < 0.4:
        red, green, blue = int(red * 0.6), max(green, 90), int(blue * 0.6)
    return red, green, blue


def noise(rng: np.random.Generator, height: int, width: int, scale: int) -> Pixels:
    """Smooth noise with a standard deviation near one whose spots measure about `scale` pixels."""
    shape = (max(2, height // scale + 1), max(2, width // scale + 1))
    small = rng.standard_normal(shape, dtype=np.float32)
    if scale == 1:
        return small[:height, :width]
    image = Image.fromarray(small)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def surface(
    rng: np.random.Generator,
    height: int,
    width: int,
    colour: Colour,
    grain: float,
    unit: float,
    speckle: float = 0.0,
) -> Image.Image:
    """A rough surface.

    Args:
        rng: Source of randomness.
        height: Pixels.
        width: Pixels.
        colour: Mean colour.
        grain: Strength of the roughness, 0..1.
        unit: Size of a small crumb in pixels.
        speckle: Share of the surface under light and dark crumbs (perlite, gravel), 0..0.3.

    Returns:
        An RGB picture.
    """
    crumb = max(1, round(unit))
    rough = noise(rng, height, width, crumb)
    relief = 20 * grain * rough + 10 * grain * noise(rng, height, width, crumb * 5)
    if crumb > 1:
        relief += 9 * grain * noise(rng, height, width, 1)
    relief += rng.uniform(0, 14) * noise(rng, height, width, max(8, height // 4))
    pixels = np.asarray(colour, dtype=np.float32) + relief[..., None]
    if speckle > 0:
        height_of = np.sort(rough[::7, ::7], axis=None)
        cut = float(height_of[int((1 - speckle) * (height_of.size - 1))])
        light = np.clip((rough - cut) * 4, 0, 1)[..., None]
        pixels += light * (np.asarray(any_light(rng), dtype=np.float32) - pixels)
        dark = np.clip((-cut * rng.uniform(1.0, 1.5) - rough) * 4, 0, 1)[..., None]
        pixels *= 1 - 0.7 * dark
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def any_light(rng: np.random.Generator) -> Colour:
    """The colour of perlite, sand or pale gravel."""
    level = rng.uniform(140, 250)
    return int(level), int(level * rng.uniform(0.85, 1.0)), int(level * rng.uniform(0.65, 1.0))


def _clouds(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Spots of all sizes in all colours: whatever a photo may show that is nothing in particular."""
    pixels = np.full((height, width, 3), rng.uniform(60, 190, 3), dtype=np.float32)
    for scale in (max(height, width) // 3, 40, 14, 5, 2):
        spots = noise(rng, height, width, scale)
        pixels += spots[..., None] * rng.normal(0, 22 if scale > 10 else 12, 3).astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def heap(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Shapes of all sizes that cover each other, in a few colours: like a photo of anything but plants."""
    side = max(height, width)
    texture = noise(rng, height, width, int(rng.integers(1, 6))) * rng.uniform(2, 22)
    texture += noise(rng, height, width, 30) * rng.uniform(2, 22)
    picture = Image.new("RGB", (width, height), any_colour(rng))
    draw = ImageDraw.Draw(picture)
    colours = [any_colour(rng) if rng.random() < 0.4 else pick(rng, GROUNDS + SOILS, 40) for _ in range(7)]
    smallest = rng.uniform(0.01, 0.06)
    straight = rng.random()
    for _ in range(int(rng.integers(10, 160))):
        far = side * min(0.5, smallest / np.sqrt(rng.uniform(0.004, 1)))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        colour = shade(colours[int(rng.integers(len(colours)))], rng.uniform(0.6, 1.3))
        if rng.random() < straight:
            turns, reach = np.sort(rng.uniform(0, 2 * np.pi, 4)), far * rng.uniform(0.5, 1.2, 4)
        else:
            turns, reach = np.linspace(0, 2 * np.pi, 24), np.full(24, far)
        xs, ys = x + reach * np.cos(turns), y + rng.uniform(0.5, 1.0) * reach * np.sin(turns)
        edge = zip(xs.tolist(), ys.tolist(), strict=True)
        draw.polygon(list(edge), fill=colour)
    pixels = np.asarray(picture).astype(np.float32) + texture[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def ground(rng: np.random.Generator, height: int, width: int, unit: float, odd: float = 0.0) -> Image.Image:
    """The floor, bench or wall under everything: plain, gravel, boards, tiles, mesh.

    Args:
        rng: Source of randomness.
        height: Pixels.
        width: Pixels.
        unit: Size of a small crumb in pixels.
        odd: How likely its colour is none that a floor has.

    Returns:
        An RGB picture.
    """
    strange = rng.random() < odd
    if strange and rng.random() < 0.7:
        return _clouds(rng, height, width) if rng.random() < 0.4 else heap(rng, height, width)
    colour = any_colour(rng) if strange else pick(rng, GROUNDS, 18)
    kind = rng.choice(("plain", "gravel", "boards", "tiles", "mesh"), p=(0.35, 0.25, 0.15, 0.13, 0.12))
    speckle = rng.uniform(0.02, 0.25) if kind == "gravel" else 0.0
    grain = rng.uniform(0.6, 1.6) if kind == "gravel" else rng.uniform(0.0, 0.6)
    picture = surface(rng, height, width, colour, grain, unit * rng.uniform(0.5, 2.5), speckle)
    draw = ImageDraw.Draw(picture)
    seam = shade(colour, rng.choice((rng.uniform(0.4, 0.8), rng.uniform(1.1, 1.4))))
    step = {"boards": 24.0, "tiles": 40.0, "mesh": 5.0}.get(str(kind), 0.0) * unit * rng.uniform(0.6, 2.0)
    if step > 3:
        thick = max(1, int(step * rng.uniform(0.02, 0.2 if kind == "mesh" else 0.06)))
        for x in np.arange(rng.uniform(0, step), width, step):
            draw.line([(x, 0), (x, height)], fill=seam, width=thick)
        for y in np.arange(rng.uniform(0, step), height, step) if kind != "boards" else ():
            draw.line([(0, y), (width, y)], fill=seam, width=thick)
    return picture
