"""Generated scenes: the same every time, and their truth agrees with itself."""

import numpy as np
import pytest

from consumer.local.scene_objects import CONTAINER_LABELS
from consumer.local.scene_plants import PLANT_KINDS
from consumer.local.scenes import Scene, demo_photo, scene

SEEDS = range(12)


def same(one: Scene, other: Scene) -> bool:
    arrays = ("pixels", "plants", "containers", "plant_masks", "container_masks")
    return (
        all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
        and one.plant_kinds == other.plant_kinds
        and one.container_labels == other.container_labels
    )


def check(view: Scene, height: int, width: int) -> None:
    assert view.pixels.shape == (height, width, 3)
    assert view.pixels.dtype == np.uint8
    for boxes, names, known, masks in (
        (view.plants, view.plant_kinds, PLANT_KINDS, view.plant_masks),
        (view.containers, view.container_labels, CONTAINER_LABELS, view.container_masks),
    ):
        assert boxes.dtype == np.float32
        assert boxes.shape == (len(names), 4)
        assert set(names) <= set(known)
        assert masks.shape == (height, width)
        assert masks.dtype == np.int32
        assert sorted(np.unique(masks[masks > 0])) == list(range(1, len(names) + 1))
        for index, (x1, y1, x2, y2) in enumerate(boxes):
            ys, xs = np.nonzero(masks == index + 1)
            assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (x1, y1, x2, y2)


@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_are_tight_around_their_masks_and_inside_the_picture(seed: int) -> None:
    check(scene(seed, 200, 264), 200, 264)


def test_a_seed_gives_the_same_scene_every_time_and_another_seed_another() -> None:
    assert same(scene(7), scene(7))
    assert not same(scene(7), scene(8))
    assert same(demo_photo(7, 240, 320), demo_photo(7, 240, 320))


@pytest.mark.parametrize("layout", ["empty", "nothing"])
def test_a_scene_without_plants_has_none(layout: str) -> None:
    for seed in SEEDS:
        view = scene(seed, layout=layout)
        assert len(view.plants) == 0
        assert not view.plant_masks.any()
        assert layout == "empty" or len(view.containers) == 0


def test_a_demo_photo_shows_a_few_whole_containers_with_a_countable_number_of_plants() -> None:
    for seed in range(6):
        view = demo_photo(seed)
        check(view, 960, 1280)
        assert 1 <= len(view.containers) <= 4
        assert 10 <= len(view.plants) <= 80


def test_plants_grow_in_the_containers_of_a_demo_photo() -> None:
    view = demo_photo(3)
    middles = ((view.plants[:, :2] + view.plants[:, 2:]) / 2).astype(int)
    assert all(view.container_masks[y, x] > 0 for x, y in middles)
