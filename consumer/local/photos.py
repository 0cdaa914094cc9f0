"""The photos of a demo: generated scenes with their truth, or the user's own files."""

from __future__ import annotations

import io
import random
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from consumer.local.scenes import Scene, demo_photo

CONTENT_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".heic": "image/heic",
    ".heif": "image/heif",
}
"""The files of a folder that are taken for photos."""

_VARIETY = (
    (".jpg", 1),
    (".jpg", 6),
    (".png", 1),
    (".webp", 1),
    (".jpg", 8),
    (".jpg", 1),
    (".tif", 1),
    (".jpg", 3),
)
"""File type and EXIF orientation of the generated photos, in turn: cameras are held in any way."""

_STORED_AS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""How an upright picture lies in a file of that EXIF orientation: turned the other way than it is shown."""

_ORIENTATION = 0x0112


class NoPhotos(ValueError):
    """The user's folder holds no photos."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What is on a generated photo, in pixels of the upright picture."""

    width: int
    height: int
    plants: list[list[float]]
    """x1, y1, x2, y2"""
    plant_kinds: list[str]
    containers: list[list[float]]
    container_labels: list[str]


@dataclass(frozen=True, slots=True)
class DemoPhoto:
    """A photo's file."""

    source: str
    """What it is called in tables: a path that the user can open."""
    name: str
    """Its file name in the bucket, unique in a demo."""
    path: Path
    truth: Truth | None = None

    @property
    def stem(self) -> str:
        """The name without its ending, for what is made of it."""
        return Path(self.name).stem

    @property
    def content_type(self) -> str:
        """What its ending says that it is."""
        return CONTENT_TYPES[self.path.suffix.lower()]


def generated_photo(seed: int, index: int, folder: Path, height: int = 960, width: int = 1280) -> DemoPhoto:
    """Generate photo number `index` of a demo, write it into `folder`, and return it with its truth."""
    scene = demo_photo(random.Random(f"{seed}/{index}").getrandbits(62), height, width)
    ending, orientation = _VARIETY[index % len(_VARIETY)]
    name = f"demo-{index + 1:02}{ending}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(_encoded(Image.fromarray(scene.pixels), ending, orientation))
    return DemoPhoto(f"{folder.name}/{name}", name, folder / name, _truth(scene))


def photo_files(folder: Path) -> list[Path]:
    """Return the photos in a folder of the user's, by name.

    Raises:
        NoPhotos: there are none.
    """
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in CONTENT_TYPES and path.is_file() and not path.name.startswith(".")
    )
    if not found:
        raise NoPhotos(f"{folder}: expected photos ({', '.join(sorted(CONTENT_TYPES))}), found none")
    return found


def own_photo(path: Path, index: int) -> DemoPhoto:
    """Return a file of the user's as a photo; whether it is one, the worker will say."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem)[:80]
    return DemoPhoto(str(path), f"{index + 1:02}-{stem}{path.suffix.lower()}", path)


def _encoded(picture: Image.Image, ending: str, orientation: int) -> bytes:
    file = io.BytesIO()
    match ending:
        case ".jpg":
            exif = Image.Exif()
            exif[_ORIENTATION] = orientation
            stored = picture.transpose(_STORED_AS[orientation]) if orientation in _STORED_AS else picture
            stored.save(file, "JPEG", quality=92, exif=exif)
        case ".png":
            picture.save(file, "PNG", compress_level=1)
        case ".webp":
            picture.save(file, "WEBP", quality=90, method=2)
        case _:
            picture.save(file, "TIFF", compression="tiff_deflate")
    return file.getvalue()


def _truth(scene: Scene) -> Truth:
    height, width = scene.pixels.shape[:2]
    return Truth(
        width,
        height,
        scene.plants.round(1).tolist(),
        list(scene.plant_kinds),
        scene.containers.round(1).tolist(),
        list(scene.container_labels),
    )
