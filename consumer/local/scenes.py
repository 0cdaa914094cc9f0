"""Generated nursery photos with the truth about them: for the demo, for tests, for training the demo models.

A scene is laid out flat, as seen from straight above: ground, containers, cells, pots, plants, clutter. A
camera then looks at it (turned, tilted), and light, blur, noise and compression make it a photo. Everything
follows from the seed alone. It randomises far beyond what a nursery looks like, because models that learn
from it have to work on real photos.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consumer.local.scene_camera import View, expose, view, visible
from consumer.local.scene_layout import (
    Canvas,
    container_places,
    fill_container,
    new_canvas,
    plant_loose,
    scatter_under,
)
from consumer.local.scene_objects import CONTAINER_LABELS, Rectangle, clutter

LAYOUTS = ("containers", "loose", "empty", "nothing")
MIN_VISIBLE = 0.25  # of a plant's own area: what is hidden further is no plant to be found
MIN_SIDE = 5.0  # pixels


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and what is in it.

    Attributes:
        pixels: uint8 (h, w, 3), RGB.
        plants: float32 (n, 4), x1 y1 x2 y2 in pixels, tight around the visible leaves.
        plant_kinds: n names out of `scene_plants.PLANT_KINDS`.
        containers: float32 (m, 4), x1 y1 x2 y2 in pixels.
        container_labels: m of `segmento`, `cajon`, `claro-cajon`.
        plant_masks: int32 (h, w); 0 is none, i + 1 is row i of `plants`.
        container_masks: int32 (h, w); likewise for `containers`; what grows in a container belongs to it.
    """

    pixels: NDArray[np.uint8]
    plants: NDArray[np.float32]
    plant_kinds: tuple[str, ...]
    containers: NDArray[np.float32]
    container_labels: tuple[str, ...]
    plant_masks: NDArray[np.int32]
    container_masks: NDArray[np.int32]


def scene(
    seed: int, height: int = 320, width: int = 320, layout: str | None = None, pitch: float | None = None
) -> Scene:
    """Generate a scene as used for training: any scale, any composition.

    Args:
        seed: Decides everything.
        height: Pixels.
        width: Pixels.
        layout: One of `LAYOUTS`; drawn by lot if not given. `empty` and `nothing` have no plants.
        pitch: Distance between plants in pixels; drawn by lot if not given.

    Returns:
        The scene with its truth.
    """
    rng = np.random.default_rng(seed)
    layout = layout or str(rng.choice(LAYOUTS, p=(0.54, 0.24, 0.09, 0.13)))
    pitch = pitch or float(np.exp(rng.uniform(np.log(20), np.log(max(40.0, 0.9 * min(height, width))))))
    camera = view(rng, height, width, wild=True)
    canvas = new_canvas(rng, camera.canvas, pitch, odd=0.75 if layout == "nothing" else 0.2)
    tall, wide = canvas.plants.shape
    if layout in ("containers", "empty"):
        for area, label in container_places(rng, wide, tall, pitch):
            fill_container(rng, canvas, area, label, pitch, empty=layout == "empty")
    elif layout == "loose":
        plant_loose(rng, canvas, pitch)
    for _ in range(int(rng.integers(2, 14)) if layout == "nothing" else int(rng.integers(0, 4))):
        # Clutter is drawn under the truth's feet: it may cover nothing that is counted.
        scatter_under(rng, canvas)
    return _photo(rng, canvas, camera)


def demo_photo(
    seed: int, height: int = 960, width: int = 1280, *, more_things: int = 0, odd: float = 0.0
) -> Scene:
    """Generate a photo as a nursery takes it: one to four whole containers with 10 to 80 plants, well lit.

    Args:
        seed: Decides everything.
        height: Pixels.
        width: Pixels.
        more_things: How many things that are no plants lie about, besides up to three drawn by lot.
        odd: How likely the ground's colour is none that a floor has.

    Returns:
        The photo with its truth.
    """
    rng = np.random.default_rng((seed, 1))
    camera = view(rng, height, width, wild=False)
    columns, rows = ((1, 1), (2, 1), (2, 2))[int(rng.choice(3, p=(0.4, 0.35, 0.25)))]
    margin = 0.09
    tall, wide = camera.canvas
    room = (wide * (1 - 2 * margin) / columns, tall * (1 - 2 * margin) / rows)
    across = int(rng.integers(5, 10)) if columns * rows == 1 else int(rng.integers(3, 6))
    pitch = room[0] * 0.9 / (across + 0.8)
    down = int(np.clip(room[1] * 0.92 / pitch - 0.8, 2, 80 // (across * columns * rows)))
    canvas = new_canvas(rng, camera.canvas, pitch, odd)
    for _ in range(int(rng.integers(0, 4)) + more_things):
        clutter(rng, canvas.picture, canvas.unit)
    kind = str(rng.choice(CONTAINER_LABELS))
    for index in range(columns * rows):
        label = kind if rng.random() < 0.6 else str(rng.choice(CONTAINER_LABELS))
        size = ((across + 0.6) * pitch, (down + 0.6) * pitch)
        left = wide * margin + room[0] * (index % columns) + (room[0] - size[0]) * rng.uniform(0.3, 0.7)
        top = tall * margin + room[1] * (index // columns) + (room[1] - size[1]) * rng.uniform(0.3, 0.7)
        fill_container(
            rng, canvas, Rectangle(left, top, left + size[0], top + size[1]), label, pitch, tame=True
        )
    return _photo(rng, canvas, camera)


def _photo(rng: np.random.Generator, canvas: Canvas, camera: View) -> Scene:
    """Look at the canvas through the camera and settle the truth by what can be seen."""
    plant_map, container_map = (
        np.asarray(camera.photograph(Image.fromarray(flat), Image.Resampling.NEAREST))
        for flat in (canvas.plants, canvas.containers)
    )
    plants = visible(plant_map, np.array([0, *canvas.areas]) * MIN_VISIBLE, MIN_SIDE)
    containers = visible(container_map, np.zeros(len(canvas.labels) + 1), MIN_SIDE)
    return Scene(
        pixels=expose(rng, camera.photograph(canvas.picture, Image.Resampling.BILINEAR), wild=camera.wild),
        plants=plants.boxes,
        plant_kinds=tuple(canvas.kinds[i - 1] for i in plants.ids),
        containers=containers.boxes,
        container_labels=tuple(canvas.labels[i - 1] for i in containers.ids),
        plant_masks=plants.map,
        container_masks=containers.map,
    )
