"""What stands and lies around the plants: containers, labels, and things that are no plants, green or not."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from consumer.local.scene_grounds import GROUNDS, any_colour, palette, pick
from consumer.local.scene_leaves import Colour, shade

CONTAINER_LABELS = ("segmento", "cajon", "claro-cajon")

CRATES = palette("1c1c1e 2d2f32 282d34 3a3c40 192d1e 1e284b 1c1c1e 2d2f32 14322a 222238")
TRAYS = palette("f0f0ee e6e3d8 dcdfe0 ebe4c8 dfe9ee")
EDGINGS = palette("a07b54 8a6546 a58c6e a0503c 96826e b06a48")
POTS = palette("1e1e20 2d2d30 aa5a3c 964b37 ebebe6 786e64 3c4b3c beaa8c 467846")
LABELS = palette("f0f0eb f0dc5a e1e1f0")


@dataclass(frozen=True, slots=True)
class Rectangle:
    """An upright rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """As Pillow takes it; never inside out."""
        return self.left, self.top, max(self.left + 1, self.right), max(self.top + 1, self.bottom)

    def inset(self, by: float) -> "Rectangle":
        """The same rectangle, smaller by `by` on each side."""
        return Rectangle(self.left + by, self.top + by, self.right - by, self.bottom - by)


def drop_shadow(picture: Image.Image, area: Rectangle, offset: float, strength: float) -> None:
    """Darken the ground beside something that stands on it."""
    dark = Image.new("L", picture.size, 0)
    left, top, right, bottom = area.corners
    ImageDraw.Draw(dark).rectangle(
        (left + offset, top + offset, right + offset, bottom + offset), fill=int(255 * strength)
    )
    picture.paste((12, 12, 16), (0, 0), dark.filter(ImageFilter.BoxBlur(max(1.0, abs(offset) * 0.5))))


def container(
    rng: np.random.Generator, picture: Image.Image, area: Rectangle, label: str, rim: float
) -> Colour:
    """Draw a crate, a light tray or the edging of a bed, with its inside still empty.

    Args:
        rng: Source of randomness.
        picture: What is drawn on.
        area: Outer edge.
        label: One of `CONTAINER_LABELS`.
        rim: Width of the rim in pixels.

    Returns:
        The container's colour.
    """
    palette = {"segmento": EDGINGS, "cajon": CRATES}.get(label, TRAYS)
    colour = pick(rng, palette, 8)
    draw = ImageDraw.Draw(picture)
    radius = 0 if label == "segmento" else rim * rng.uniform(0, 1.5)
    draw.rounded_rectangle(area.corners, radius, fill=colour)
    draw.rounded_rectangle(
        area.inset(rim * 0.25).corners,
        radius,
        outline=shade(colour, rng.uniform(1.05, 1.35)),
        width=max(1, int(rim * 0.2)),
    )
    draw.rectangle(area.inset(rim).corners, fill=shade(colour, rng.uniform(0.55, 0.95)))
    if label == "segmento" and rng.random() < 0.8:
        length = rim * rng.uniform(3, 14)
        joint = shade(colour, 0.6)
        for x in np.arange(area.left, area.right, length):
            draw.line([(x, area.top), (x, area.top + rim)], fill=joint, width=1)
            draw.line([(x, area.bottom - rim), (x, area.bottom)], fill=joint, width=1)
    return colour


def plant_label(rng: np.random.Generator, picture: Image.Image, x: float, y: float, size: float) -> None:
    """A stuck-in label: a small slip with what looks like writing."""
    wide, tall = size * rng.uniform(0.25, 0.5), size * rng.uniform(0.6, 1.4)
    slip = Image.new(
        "RGBA",
        (max(3, int(wide * 2)), max(4, int(tall * 2))),
        (*pick(rng, LABELS, 8), 255),
    )
    draw = ImageDraw.Draw(slip)
    for line in range(4, slip.height - 2, 5):
        draw.line([(2, line), (slip.width * rng.uniform(0.4, 0.95), line)], fill=(60, 60, 80, 255), width=1)
    slip = slip.rotate(rng.uniform(-60, 60), Image.Resampling.BILINEAR, expand=True)
    slip = slip.resize((max(1, slip.width // 2), max(1, slip.height // 2)), Image.Resampling.BOX)
    picture.paste(slip, (int(x - slip.width / 2), int(y - slip.height / 2)), slip)


def clutter(rng: np.random.Generator, picture: Image.Image, unit: float) -> None:
    """Draw one thing that is no plant: a stone, a hose, a tool, a ball, a cloth, a board, or writing."""
    width, height = picture.size
    draw = ImageDraw.Draw(picture)
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    size = unit * rng.uniform(1, 16)
    colour = any_colour(rng)
    kind = rng.choice(("stone", "hose", "tool", "ball", "cloth", "board", "text", "pebbles"))
    if kind == "hose":
        xs = np.linspace(-0.1 * width, 1.1 * width, 24)
        ys = y + size * 3 * np.sin(xs / (unit * rng.uniform(10, 40)) + rng.uniform(0, 6))
        points = list(zip(xs.tolist(), ys.tolist(), strict=True))
        if rng.random() < 0.5:
            points = [(b * width / height, a * height / width) for a, b in points]
        thick = max(2, int(unit * rng.uniform(0.6, 3)))
        draw.line(points, fill=shade(colour, 0.7), width=thick, joint="curve")
        draw.line(points, fill=colour, width=max(1, thick // 2), joint="curve")
    elif kind == "text":
        words = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUXZ 0123456789"), int(rng.integers(3, 12))))
        lines = "\n".join([words] * int(rng.choice((1, 1, 8))))
        draw.text((x, y), lines, fill=colour, font_size=max(6, size))
    elif kind == "ball":
        for step in range(6):
            far = size * (1 - step / 6)
            draw.ellipse((x - far, y - far, x + far, y + far), fill=shade(colour, 0.7 + 0.1 * step))
    elif kind in ("board", "tool"):
        long = size * rng.uniform(1.5, 8)
        turn = rng.uniform(0, np.pi)
        along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        half = size * rng.uniform(0.1, 0.6)
        ends = [
            np.array([x, y]) + a * along * long / 2 + b * across * half
            for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        draw.polygon([(float(px), float(py)) for px, py in ends], fill=colour, outline=shade(colour, 0.7))
        if kind == "tool":
            draw.ellipse(
                (x - size, y - size, x + size, y + size),
                fill=shade(colour, 0.5),
                outline=colour,
                width=max(1, int(half / 2)),
            )
    elif kind == "pebbles":
        for _ in range(int(rng.integers(4, 20))):
            px, py, far = x + rng.normal(0, size), y + rng.normal(0, size), unit * rng.uniform(0.2, 1.0)
            draw.ellipse(
                (px - far, py - far * 0.8, px + far, py + far * 0.8),
                fill=shade(colour, rng.uniform(0.7, 1.2)),
            )
    else:
        turns = np.sort(rng.uniform(0, 2 * np.pi, 9))
        reach = size * rng.uniform(0.6, 1.1, 9) * (1.6 if kind == "cloth" else 1.0)
        edge = list(
            zip((x + reach * np.cos(turns)).tolist(), (y + reach * np.sin(turns)).tolist(), strict=True)
        )
        draw.polygon(edge, fill=colour if kind == "cloth" else pick(rng, GROUNDS), outline=shade(colour, 0.6))
        for a, b in zip(edge[:4], edge[4:8], strict=True) if kind == "cloth" else ():
            draw.line([a, b], fill=shade(colour, 0.8), width=max(1, int(unit * 0.4)))
