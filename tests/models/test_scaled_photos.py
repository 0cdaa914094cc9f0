"""Models that are shown photos decoded smaller than they are: they answer in the photo's own frame."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from consumer.local.scenes import demo_photo
from consumer.models.embeddings import JobEmbeddings
from consumer.models.manifest import InvalidManifest, load_manifest
from consumer.models.pixels import decoded, picture_at
from consumer.models.runner import Prompt, Sought
from consumer.models.sam.pictures import shown
from consumer.models.torch_loader import RUNNERS
from pipeline_steps.artifacts import Image, Pixels
from pipeline_steps.image.encode import encode_jpeg
from pipeline_steps.image.intake import read_image
from pipeline_steps.models import Decoding, MaskQuality, ModelKind
from pipeline_steps.pictures import ScaledPhoto, Window
from tests.models.random_models import ModelFolder, network, photo, spec
from tests.models.sams import runner, sam

PHOTO = demo_photo(5, 600, 800)


def never(left: int, top: int, right: int, bottom: int) -> Pixels:
    raise AssertionError(f"{left} {top} {right} {bottom} was decoded")


def halved(pixels: Pixels) -> ScaledPhoto:
    """Return a photo of which only every second pixel is there, each as large as four."""
    return ScaledPhoto(np.ascontiguousarray(pixels[::2, ::2]), _window(pixels, never))


def _window(pixels: Pixels, decode: Callable[[int, int, int, int], Pixels]) -> Window:
    return Window(decode, 0, 0, pixels.shape[1], pixels.shape[0])


def blocky(pixels: Pixels) -> Pixels:
    """Return the picture in blocks of 2 x 2 of one colour, from which halving takes nothing away."""
    return np.ascontiguousarray(pixels[::2, ::2].repeat(2, 0).repeat(2, 1))


def answer(kind: ModelKind, architecture: str, classes: int, picture: Any) -> Any:
    made = RUNNERS[kind](
        network(architecture, classes).eval(), spec(kind, classes=classes), torch.device("cpu"), 2
    )
    return made.run([made.prepare(picture)])[0]


def test_a_detector_finds_boxes_in_the_photos_frame() -> None:
    small = photo(256, 192)
    whole = small.repeat(2, 0).repeat(2, 1)

    seen = answer(ModelKind.DETECTION, "fcos_small", 2, halved(whole))
    alone = answer(ModelKind.DETECTION, "fcos_small", 2, small)

    assert len(seen) > 10
    np.testing.assert_allclose(seen.xyxy, 2 * alone.xyxy, rtol=1e-5)
    np.testing.assert_array_equal(seen.score, alone.score)
    sought = answer(ModelKind.DETECTION, "fcos_small", 2, Sought(halved(whole), 0.1))
    assert sought.xyxy.max() == seen.above(0.1).xyxy.max()


def test_masks_and_classes_of_pixels_are_as_large_as_the_photo() -> None:
    whole = blocky(photo(600, 800))

    masks = answer(ModelKind.INSTANCE, "maskrcnn_small", 1, halved(whole))
    classes = answer(ModelKind.SEMANTIC, "lraspp_mobilenet_v3_large", 2, halved(whole))

    assert classes.shape == (600, 800)
    assert masks.xyxy[:, 2].max() > 400


def test_a_classifier_says_what_it_says_of_the_whole_photo() -> None:
    whole = photo(512, 640).repeat(2, 0).repeat(2, 1)

    seen, expected = (
        answer(ModelKind.CLASSIFICATION, "small_classifier", 3, picture) for picture in (halved(whole), whole)
    )

    np.testing.assert_allclose(seen, expected, atol=0.02)


def test_sam_gives_masks_in_the_photos_frame() -> None:
    whole = blocky(PHOTO.pixels)
    model = runner(sam("shipped"))
    point, quality = np.array([[400.0, 300.0], [200.0, 100.0]]), MaskQuality(0, 0)

    found = []
    for picture in (whole, halved(whole)):
        (embedding,) = model.run([model.prepare(picture)])
        (masks,) = model.run([Prompt(embedding, point, quality)])
        found.append(masks)

    expected, seen = found
    assert len(seen) == len(expected) == 6
    for one, other in zip(seen.sketch, expected.sketch, strict=True):
        np.testing.assert_allclose(one.area, other.area, rtol=0.1, atol=30)


def test_what_sam_is_shown_is_made_of_the_pixels_that_were_decoded() -> None:
    whole = photo(600, 800)

    seen = shown(halved(whole), 128)

    np.testing.assert_array_equal(seen.image, shown(np.ascontiguousarray(whole[::2, ::2]), 128).image)
    assert (seen.height, seen.width) == (600, 800)


def test_steps_of_one_job_share_its_embedding() -> None:
    async def story() -> None:
        made: list[int] = []

        async def embed(pictures: Any) -> list[Any]:
            made.append(len(pictures))
            return [object() for _ in pictures]

        image, kept = Image(halved(photo(60, 80))), JobEmbeddings()
        first = await kept.of("sam", [image.shown], embed)
        assert await kept.of("sam", [image.shown], embed) == first
        assert made == [1]

    asyncio.run(story())


def test_a_step_that_needs_the_pixels_nevertheless_gets_all_of_them() -> None:
    data = encode_jpeg(PHOTO.pixels, 95)
    whole = read_image(data, max_pixels=1_000_000, name="x").pixels
    small = read_image(data, max_pixels=1_000_000, name="x", longest=100)

    def part(left: int, top: int, right: int, bottom: int) -> Pixels:
        return whole[top:bottom, left:right]

    image = Image(ScaledPhoto(small.pixels, _window(whole, part)))

    assert (image.height, image.width, image.is_read) == (600, 800, False)
    np.testing.assert_array_equal(image.pixels, whole)
    crop = image.crop([10, 20, 200, 100]).crop([50, 30, 90, 60])
    assert (crop.x, crop.y) == (50, 30)
    np.testing.assert_array_equal(crop.pixels, whole[30:60, 50:90])
    np.testing.assert_array_equal(decoded(crop.shown, (30, 40)), crop.pixels)


def test_a_model_that_is_shown_more_than_was_decoded_is_shown_the_photo() -> None:
    whole = photo(600, 800)
    scaled = ScaledPhoto(
        np.ascontiguousarray(whole[::4, ::4]),
        _window(whole, lambda left, top, right, bottom: whole[top:bottom, left:right]),
    )

    np.testing.assert_array_equal(shown(scaled, 256).image, shown(whole, 256).image)
    np.testing.assert_array_equal(picture_at(scaled, (224, 224)).image, picture_at(whole, (224, 224)).image)


def test_the_manifest_says_for_which_models_it_may_be(folder: ModelFolder) -> None:
    folder.add("one", "detection", "fcos_small", classes=1)
    folder.add("other", "detection", "fcos_small", classes=1, decoding="scaled")

    specs = load_manifest(folder.path).specs()

    assert specs["one"].decoding is Decoding.FULL
    assert specs["other"].decoding is Decoding.SCALED


def test_another_way_of_decoding_is_refused(folder: ModelFolder, tmp_path: Path) -> None:
    folder.add("one", "detection", "fcos_small", classes=1, decoding="scald")

    with pytest.raises(
        InvalidManifest,
        match=r"models.0.decoding: expected one of full, scaled, got 'scald'; did you mean 'scaled'\?",
    ):
        load_manifest(tmp_path)
