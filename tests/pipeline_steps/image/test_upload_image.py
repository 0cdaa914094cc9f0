"""What is stored, and under which names."""

from __future__ import annotations

import asyncio
import io

import numpy as np
import pytest
from PIL import Image as Pillow

from pipeline_steps.artifacts import Image, Overlay, Uploads
from pipeline_steps.context import Deadline
from pipeline_steps.errors import DeadlineExceeded, InvalidInput
from pipeline_steps.image.upload_image import UploadImageParams, upload
from tests.pipeline_steps.fakes import MemoryStore, context, countdown, scope

PICTURE = Image(np.full((100, 200, 3), (200, 30, 30), np.uint8))
DRAWN = Overlay(np.full((100, 200, 3), (30, 30, 200), np.uint8))


def run(
    store: MemoryStore,
    image: Image | None = PICTURE,
    overlay: Overlay | None = DRAWN,
    source_url: str | None = None,
    items: tuple[int, ...] = (),
    deadline: Deadline | None = None,
    **params: object,
) -> Uploads:
    chosen = UploadImageParams.model_validate(params)
    ctx = context(store=store, source_url=source_url, items=items, deadline=deadline)
    return asyncio.run(upload(image, overlay, chosen, ctx))


def opened(data: bytes) -> Pillow.Image:
    return Pillow.open(io.BytesIO(data))


def test_the_picture_and_its_thumbnails_are_stored_as_jpeg(store: MemoryStore) -> None:
    uploads = run(store, dest_prefix="originals", thumbnail_sizes=[64, 128])

    assert list(store.files) == [
        "originals/photo.jpg",
        "originals_thumbnails/photo_64.jpg",
        "originals_thumbnails/photo_128.jpg",
    ]
    assert store.content_types == {"image/jpeg"}
    assert [opened(data).size for data in store.files.values()] == [(200, 100), (64, 32), (128, 64)]
    assert [(one.kind, one.url, one.width, one.height) for one in uploads.files] == [
        ("original", "gs://photos/acme/originals/photo.jpg", 200, 100),
        ("original_thumbnail", "gs://photos/acme/originals_thumbnails/photo_64.jpg", 64, 32),
        ("original_thumbnail", "gs://photos/acme/originals_thumbnails/photo_128.jpg", 128, 64),
    ]


def test_the_processed_picture_is_what_was_drawn(store: MemoryStore) -> None:
    uploads = run(store, source="processed", thumbnail_sizes=[])

    red, _, blue = opened(store.files["processed/photo.jpg"]).getpixel((50, 50))  # type: ignore[misc]
    assert blue > red
    assert [one.kind for one in uploads.files] == ["processed"]


def test_original_and_processed_have_folders_of_their_own_unless_told(store: MemoryStore) -> None:
    run(store, thumbnail_sizes=[])
    run(store, source="processed", thumbnail_sizes=[])

    assert sorted(store.files) == ["images/photo.jpg", "processed/photo.jpg"]


def test_where_the_photo_itself_lies_nothing_is_written(store: MemoryStore) -> None:
    own = "gs://photos/acme/originals/photo.jpg"

    uploads = run(store, source_url=own, dest_prefix="originals", thumbnail_sizes=[64])

    assert list(store.files) == ["originals_thumbnails/photo_64.jpg"]
    assert uploads.files[0].url == own


def test_small_pictures_are_scaled_up_to_their_thumbnails(store: MemoryStore) -> None:
    run(store, Image(np.zeros((50, 100, 3), np.uint8)), thumbnail_sizes=[256])

    assert opened(store.files["images_thumbnails/photo_256.jpg"]).size == (256, 128)


def test_a_size_asked_for_twice_is_written_once(store: MemoryStore) -> None:
    assert len(run(store, thumbnail_sizes=[64, 64]).files) == 2


def test_a_missing_picture_is_an_error_or_skipped(store: MemoryStore) -> None:
    with pytest.raises(InvalidInput, match="skip_if_missing"):
        run(store, overlay=None, source="processed")

    assert run(store, overlay=None, source="processed", skip_if_missing=True) == Uploads()
    assert store.files == {}


def test_items_of_a_map_have_names_of_their_own(store: MemoryStore) -> None:
    for item in (0, 1):
        run(store, items=(item,), name="{image_id}_{item}", thumbnail_sizes=[32])
    run(store, items=(2, 5), name="{image_id}_{item}", thumbnail_sizes=[])

    assert sorted(store.files) == [
        "images/photo_0.jpg",
        "images/photo_1.jpg",
        "images/photo_2_5.jpg",
        "images_thumbnails/photo_0_32.jpg",
        "images_thumbnails/photo_1_32.jpg",
    ]


def test_a_map_needs_the_item_in_the_name() -> None:
    ((parameter, message),) = UploadImageParams().problems(scope(inside_map=True))

    assert parameter == "name"
    assert "{image_id}_{item}" in message
    assert list(UploadImageParams(name="{image_id}_{item}").problems(scope(inside_map=True))) == []


def test_outside_a_map_there_is_no_item() -> None:
    ((parameter, _),) = UploadImageParams(name="{item}").problems(scope())

    assert parameter == "name"
    assert list(UploadImageParams().problems(scope())) == []


@pytest.mark.parametrize(
    "prefix", ["results", "models", "", "a/b", "..", "Originals", "x" * 33, "ä", "processed\n"]
)
def test_folders_that_are_not_one_plain_segment_are_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="dest_prefix"):
        UploadImageParams.model_validate({"dest_prefix": prefix})


@pytest.mark.parametrize(
    "name",
    ["", "..", ".x", "a/b", "{tenant}", "{item[0]}", "{item!r}", "{item:>9}", "{", "{{x}}", "x\n", "a b"],
)
def test_names_that_are_not_one_plain_segment_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        UploadImageParams.model_validate({"name": name})


@pytest.mark.parametrize(
    "params", [{"quality": 0}, {"quality": 101}, {"thumbnail_sizes": [0]}, {"source": "both"}]
)
def test_values_out_of_range_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        UploadImageParams.model_validate(params)


def test_what_is_stored_is_what_is_needed() -> None:
    assert UploadImageParams().needs() == {Image}
    assert UploadImageParams(source="processed").needs() == {Overlay}
    assert UploadImageParams(source="processed", skip_if_missing=True).needs() == frozenset()


def test_the_deadline_is_looked_at_between_files(store: MemoryStore) -> None:
    with pytest.raises(DeadlineExceeded):
        run(store, deadline=countdown(2), thumbnail_sizes=[32, 64])

    assert len(store.files) == 2


def test_quality_is_passed_on(store: MemoryStore) -> None:
    noise = Image(np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8))
    run(store, noise, dest_prefix="a", quality=20, thumbnail_sizes=[])
    run(store, noise, dest_prefix="b", quality=95, thumbnail_sizes=[])

    assert len(store.files["a/photo.jpg"]) < len(store.files["b/photo.jpg"]) / 2
