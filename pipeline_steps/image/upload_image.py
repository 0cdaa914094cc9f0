"""Store the picture, or the picture with what was found drawn on it, and smaller copies of it."""

from __future__ import annotations

import asyncio
import string
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline_steps.artifacts import Image, Overlay, Pixels, Upload, Uploads
from pipeline_steps.context import StepContext
from pipeline_steps.errors import InvalidInput
from pipeline_steps.image.encode import encode_jpeg, resize_to_longest
from pipeline_steps.registry import Kinds, Scope, StepParams, step

RESERVED = ("results", "models")
"""Folders of the worker's own, in which no step writes."""
PLACEHOLDERS = ("image_id", "item")
JPEG = "image/jpeg"


def _not_reserved(prefix: str | None) -> str | None:
    if prefix in RESERVED:
        raise ValueError(f"{prefix!r} is reserved for the worker; expected another folder name")
    return prefix


def _fillable(name: str) -> str:
    try:
        parts = list(string.Formatter().parse(name))
    except ValueError as error:
        raise ValueError(f"{name!r} is no file name: {error}") from None
    for literal, field, spec, conversion in parts:
        if "{" in literal or "}" in literal or spec or conversion or field not in (None, *PLACEHOLDERS):
            raise ValueError(f"{name!r}: in braces only {{image_id}} and {{item}} are expected")
    return name


class UploadImageParams(StepParams):
    """What is stored, and under which name."""

    source: Literal["original", "processed"] = Field(
        default="original",
        description="`original`: the picture, upright. `processed`: what `visualize_detections` drew.",
    )
    dest_prefix: Annotated[str | None, AfterValidator(_not_reserved)] = Field(
        default=None,
        pattern=r"^[a-z0-9_-]{1,32}$",
        description="Folder below the tenant's own: 1 to 32 of a-z, 0-9, _ and -; not `results` or `models`. "
        "Unset: `images` for the original, `processed` for the processed picture.",
    )
    name: Annotated[str, AfterValidator(_fillable)] = Field(
        default="{image_id}",
        pattern=r"^[A-Za-z0-9_{}][A-Za-z0-9._{}-]{0,127}$",
        description="File name without `.jpg`. `{image_id}` and, inside a map, `{item}` are filled in; a map "
        "needs `{item}`, such as `{image_id}_{item}`.",
    )
    thumbnail_sizes: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = Field(
        default=(256, 512),
        max_length=16,
        description="Longest sides of the smaller copies, in pixels; small pictures are scaled up to them.",
    )
    quality: int = Field(default=85, ge=1, le=100, description="JPEG quality, 1 to 100.")
    skip_if_missing: bool = Field(
        default=False, description="Without a processed picture, store nothing; otherwise that is an error."
    )

    @property
    def folder(self) -> str:
        """Where the main file goes."""
        return self.dest_prefix or ("images" if self.source == "original" else "processed")

    def needs(self) -> Kinds:
        """The picture that is stored, unless it may be missing."""
        if self.source == "original":
            return frozenset({Image})
        return frozenset() if self.skip_if_missing else frozenset({Overlay})

    def problems(self, scope: Scope) -> Iterator[tuple[str, str]]:
        """Check that the items of a map do not overwrite each other's files."""
        if scope.inside_map and "{item}" not in self.name:
            wrong = f"inside a map every item would write {self.name!r}"
            yield "name", f"{wrong}: expected {{item}} in it, such as '{{image_id}}_{{item}}'"
        if not scope.inside_map and "{item}" in self.name:
            yield "name", f"{self.name!r} has {{item}}, which exists only inside a map"


@step("upload_image")
async def upload(
    image: Image | None, overlay: Overlay | None, params: UploadImageParams, ctx: StepContext
) -> Uploads:
    """Store the picture, or what was drawn on it, as JPEG, and smaller copies of it.

    Writes `{dest_prefix}/{name}.jpg` and `{dest_prefix}_thumbnails/{name}_{size}.jpg` in the tenant's folder.
    Where the photo itself lies nothing is written, so that no upload ever replaces or announces the original
    anew; its url is reported. Inside a map the picture is the item's crop.

    Raises:
        InvalidInput: there is no such picture, or it is too large for a JPEG.
        DeadlineExceeded: the time was over between two files.
        NotAllowed, StoreUnavailable, StoreMisconfigured: from the store.
    """
    pixels = _pixels(image, overlay, params)
    if pixels is None:
        return Uploads()
    name = params.name.format(image_id=ctx.job.image_id, item="_".join(map(str, ctx.items)))
    files = [await _store(pixels, f"{params.folder}/{name}.jpg", params.source, params, ctx)]
    for size in dict.fromkeys(params.thumbnail_sizes):
        path = f"{params.folder}_thumbnails/{name}_{size}.jpg"
        # Scaling and encoding take the CPU for a while: not on the event loop.
        small = await asyncio.to_thread(resize_to_longest, pixels, size, enlarge=True)
        files.append(await _store(small, path, f"{params.source}_thumbnail", params, ctx))
    return Uploads(tuple(files))


def _pixels(image: Image | None, overlay: Overlay | None, params: UploadImageParams) -> Pixels | None:
    source = image if params.source == "original" else overlay
    if source is not None:
        return source.pixels
    if params.skip_if_missing:
        return None
    raise InvalidInput(
        f"there is no {params.source} picture; expected a step that makes one, or skip_if_missing"
    )


async def _store(pixels: Pixels, path: str, kind: str, params: UploadImageParams, ctx: StepContext) -> Upload:
    height, width = pixels.shape[:2]
    url = ctx.store.url(path)
    if url != ctx.job.source_url:
        ctx.deadline.check()
        data = await asyncio.to_thread(encode_jpeg, pixels, params.quality)
        url = await ctx.store.write(path, data, content_type=JPEG)
    return Upload(kind, url, width, height)
