"""Detectors and their kin: boxes and masks come back in the frame of the pixels that were given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from consumer.models.architectures import IMAGENET_MEAN, IMAGENET_STD
from consumer.models.classification import ClassificationRunner
from consumer.models.detection import CPU_BATCH, DetectionRunner
from consumer.models.instances import InstanceRunner
from consumer.models.precision import reduce_trunk
from consumer.models.runner import Sought
from consumer.models.semantic import SemanticRunner, label_map
from pipeline_steps.artifacts import Pixels
from pipeline_steps.errors import InvalidInput, ModelUnavailable, NotANumber
from pipeline_steps.geometry import tiles
from pipeline_steps.models import ModelKind
from tests.models.random_models import network, photo, spec

CPU = torch.device("cpu")


def detector(model: nn.Module | None = None, **changes: Any) -> DetectionRunner:
    model = model or network("fcos_small", 2)
    return DetectionRunner(model, spec(ModelKind.DETECTION, classes=2, **changes), CPU, 4)


def answers(runner: Any, *pictures: Pixels) -> list[Any]:
    """Answer the pictures one batch per bucket, as the batcher does."""
    ready = [runner.prepare(picture) for picture in pictures]
    assert len({runner.bucket(item) for item in ready}) == 1
    return list(runner.run(ready))


def as_float(picture: Pixels) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255


class WithoutResizing(GeneralizedRCNNTransform):
    def resize(self, image: Any, target: Any = None) -> Any:
        return image, target


def stock(architecture: str, classes: int) -> Any:
    """Return the network with torchvision's own transform, resizing alone left out."""
    model: Any = network(architecture, classes)
    given = model.transform
    model.transform = WithoutResizing(1, 1, given.image_mean, given.image_std).eval()
    heads = getattr(model, "roi_heads", model)
    heads.score_thresh = 0.05
    return model


@pytest.mark.parametrize(
    ("architecture", "part"),
    [
        ("fcos_small", "backbone.fpn"),
        ("fcos_small", "head.classification_head"),
        ("fcos_small", "head.regression_head"),
        ("maskrcnn_small", "backbone.fpn"),
        ("maskrcnn_small", "rpn.head"),
        ("maskrcnn_small", "roi_heads.box_predictor"),
        ("maskrcnn_small", "roi_heads.mask_predictor"),
    ],
)
def test_a_network_that_has_overflowed_is_an_error_and_not_a_photo_without_plants(
    architecture: str, part: str
) -> None:
    model = network(architecture, 2)
    for weight in model.get_submodule(part).parameters():
        weight.data.fill_(torch.nan)
    kind = ModelKind.DETECTION if architecture == "fcos_small" else ModelKind.INSTANCE
    cls: Any = DetectionRunner if kind is ModelKind.DETECTION else InstanceRunner
    runner = cls(model, spec(kind, classes=2, threshold=0.0), CPU, 4)

    with pytest.raises(NotANumber, match="answered what is no number"):
        answers(runner, photo(200, 300))


@pytest.mark.parametrize("architecture", ["fcos_small", "maskrcnn_small"])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_what_nobody_wants_is_dropped_before_suppression_and_changes_nothing_else(
    architecture: str, share: float
) -> None:
    model = network(architecture, 2)
    kind = ModelKind.DETECTION if architecture == "fcos_small" else ModelKind.INSTANCE
    cls: Any = DetectionRunner if kind is ModelKind.DETECTION else InstanceRunner
    runner = cls(model, spec(kind, classes=2, threshold=0.0), CPU, 4)
    picture = photo(200, 300)
    (every,) = answers(runner, picture)
    least = float(np.quantile(every.score, 1 - share))

    (found,) = answers(runner, Sought(picture, least))

    wanted, kept = every.score >= least, found.score >= least
    assert len(every.score) >= len(found.score) > 3
    np.testing.assert_array_equal(found.score[kept], every.score[wanted])
    np.testing.assert_array_equal(found.xyxy[kept], every.xyxy[wanted])
    np.testing.assert_array_equal(found.label[kept], every.label[wanted])


def test_a_batch_answers_everybody_who_wants_less_sure_boxes() -> None:
    runner = detector(threshold=0.0)
    picture = photo(200, 300)
    (every,) = answers(runner, picture)

    both = runner.run([runner.prepare(Sought(picture, 0.99)), runner.prepare(picture)])

    np.testing.assert_array_equal(both[1].score, every.score)


def test_tiles_at_the_edge_of_a_photo_share_the_batches_of_the_others() -> None:
    runner = detector(input_size=640)
    photograph = np.zeros((3000, 4000, 3), np.uint8)

    tiles_of_it = [photograph[y1:y2, x1:x2] for x1, y1, x2, y2 in tiles(4000, 3000, 512, 512, 0.25).tolist()]

    assert {runner.bucket(runner.prepare(tile)) for tile in tiles_of_it} == {(512, 512)}
    assert not any(runner.costly(tile) for tile in tiles_of_it)
    assert np.shares_memory(runner.prepare(tiles_of_it[-1]).image.numpy(), photograph)


def test_a_cpu_looks_at_one_picture_at_a_time() -> None:
    assert detector().max_batch((64, 64)) == CPU_BATCH == 1


@pytest.mark.parametrize(
    "architecture",
    ["fcos_small", "fcos_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn"],
)
def test_boxes_are_torchvisions_own(architecture: str) -> None:
    picture = photo(250, 190)
    (expected,) = stock(architecture, 2)([as_float(picture)])
    expected = {name: values[expected["labels"] > 0] for name, values in expected.items()}

    (boxes,) = answers(detector(network(architecture, 2)), picture)

    assert len(boxes) == len(expected["boxes"]) > 0
    np.testing.assert_allclose(boxes.xyxy, expected["boxes"].numpy(), atol=1e-2)
    np.testing.assert_allclose(boxes.score, expected["scores"].numpy(), atol=1e-4)
    assert list(boxes.label) == [" ab"[label] for label in expected["labels"]]


class SeesBright(nn.Module):
    """Finds the bright pixels of what it is shown, as something of either class and as background."""

    def __init__(self) -> None:
        super().__init__()
        self.transform: Any = GeneralizedRCNNTransform(1, 1, [0.0] * 3, [1.0] * 3)
        self.shown: list[tuple[int, int]] = []
        self.score_thresh = 0.5

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        batch: ImageList
        batch, _ = self.transform(images, None)
        self.shown += batch.image_sizes
        found = []
        for image in batch.tensors:
            rows, columns = torch.nonzero(image[0] > 0.5, as_tuple=True)
            box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            boxes = torch.stack([box, box, box])
            found.append(
                {"boxes": boxes, "scores": torch.tensor([0.2, 0.9, 0.5]), "labels": torch.tensor([1, 2, 0])}
            )
        return found


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [
        (1024, 512, (256, 128)),  # shrunk until the longer side is the input size
        (500, 1000, (128, 256)),
        (100, 60, (100, 60)),  # never enlarged
        (256, 256, (256, 256)),
        (3, 2000, (1, 256)),
    ],
)
def test_boxes_come_back_in_the_frame_of_the_pixels_given(
    height: int, width: int, shown: tuple[int, int]
) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    picture[height // 4 : height // 4 + height // 2, width // 2 :] = 255
    if height == 3:
        picture[:, width // 2 :] = 255
    model = SeesBright()

    (found,) = answers(detector(model), picture)

    assert model.shown == [shown]
    expected = [width // 2, 0 if height == 3 else height // 4, width, 3 if height == 3 else height * 3 // 4]
    np.testing.assert_allclose(found.xyxy[0], expected, atol=max(height, width) / 256)
    assert list(found.label) == ["b", "a"]  # by descending score; the background is nothing found
    assert found.xyxy.dtype == found.score.dtype == np.float32


def test_pixels_are_resized_once_as_pillow_resizes_them() -> None:
    from PIL import Image

    picture = photo(600, 450)
    expected = np.asarray(Image.fromarray(picture).resize((192, 256), Image.Resampling.BILINEAR))

    shown = detector().prepare(picture).image

    assert np.abs(shown.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


def test_what_is_found_does_not_depend_on_whom_the_batch_was_shared_with() -> None:
    pictures = [photo(250, 190, seed) for seed in range(3)] + [photo(240, 180, 3)]
    runner = detector()

    together = answers(runner, *pictures)

    for picture, found in zip(pictures, together, strict=True):
        (alone,) = answers(runner, picture)
        np.testing.assert_allclose(found.xyxy, alone.xyxy, atol=1e-2)
        np.testing.assert_allclose(found.score, alone.score, atol=1e-4)


@pytest.mark.parametrize(("threshold", "lowest"), [(0.5, 0.05), (0.01, 0.01)])
def test_the_model_answers_below_the_manifests_threshold(threshold: float, lowest: float) -> None:
    model: Any = network("fcos_small", 2)

    answers(detector(model, threshold=threshold), photo(90, 70))

    assert model.score_thresh == lowest


def test_a_picture_with_nothing_in_it_gives_no_boxes() -> None:
    (found,) = answers(detector(), Sought(photo(90, 70), 1.1))

    assert found.xyxy.shape == (0, 4)
    assert len(found.above(0.0)) == 0


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5, 3), np.float32),
    ],
)
def test_what_is_no_picture_is_refused(picture: Any) -> None:
    with pytest.raises(InvalidInput, match="expected pixels of uint8"):
        detector().prepare(picture)


def test_masks_of_instances_are_torchvisions_own() -> None:
    height, width = 230, 180
    picture = photo(height, width)
    (expected,) = stock("maskrcnn_small", 2)([as_float(picture)])
    runner = InstanceRunner(network("maskrcnn_small", 2), spec(ModelKind.INSTANCE, classes=2), CPU, 2)

    (found,) = answers(runner, picture)

    assert len(found.mask) == len(expected["masks"]) > 0
    np.testing.assert_allclose(found.xyxy, expected["boxes"].numpy(), atol=1e-2)
    assert list(found.label) == [" ab"[label] for label in expected["labels"]]
    differing = 0
    for mask, whole in zip(found.mask, expected["masks"], strict=True):
        canvas = np.zeros((height, width), np.bool_)
        canvas[mask.y : mask.y + mask.bits.shape[0], mask.x : mask.x + mask.bits.shape[1]] = mask.bits
        differing += int((canvas ^ (whole[0] > 0.5).numpy()).sum())
    assert differing <= 5 * len(found.mask)


def test_masks_of_a_shrunk_picture_are_made_at_its_own_size() -> None:
    picture = photo(700, 500)
    runner = InstanceRunner(network("maskrcnn_small", 2), spec(ModelKind.INSTANCE, classes=2), CPU, 2)
    (raw,) = runner._model([runner.prepare(picture).image])
    boxes = resize_boxes(raw["boxes"], [256, 183], [700, 500])
    expected = paste_masks_in_image(raw["masks"], boxes, (700, 500))

    (found,) = answers(runner, picture)

    for mask, whole in zip(found.mask, expected, strict=True):
        assert mask.area == pytest.approx(int((whole > 0.5).sum()), abs=5)


def test_a_label_map_is_the_strongest_class_of_stretched_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(4, 13, 9)
    expected = functional.interpolate(logits[None], (101, 57), mode="bilinear").argmax(1)[0] - 1
    monkeypatch.setattr("consumer.models.semantic._STRIP_BYTES", 4 * 4 * 57 * 10)  # ten rows

    labels = label_map(logits, 101, 57)

    assert labels.shape == (101, 57)
    assert labels.dtype == np.int16
    assert (labels != expected.numpy()).mean() < 0.001


def test_a_semantic_network_names_a_class_for_each_pixel() -> None:
    model = network("lraspp_mobilenet_v3_large", 3)
    runner = SemanticRunner(model, spec(ModelKind.SEMANTIC, classes=3, input_size=128), CPU, 2)
    picture = photo(64, 96)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = model(((as_float(picture) - mean) / std)[None])["out"].argmax(1)[0] - 1

    (labels,) = answers(runner, picture)
    (large,) = answers(runner, photo(200, 150))

    assert (labels == expected.numpy()).mean() > 0.999
    assert labels.min() >= -1
    assert labels.max() <= 2
    assert large.shape == (200, 150)


def test_a_classifier_answers_probabilities_of_its_classes() -> None:
    model = network("small_classifier", 3)
    runner = ClassificationRunner(model, spec(ModelKind.CLASSIFICATION, classes=3, input_size=64), CPU, 4)
    pictures = [photo(64, 64), photo(20, 90), photo(300, 10)]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = model(((as_float(pictures[0]) - mean) / std)[None]).softmax(1)[0]

    found = answers(runner, *pictures)

    np.testing.assert_allclose(found[0], expected.numpy(), atol=1e-5)
    for probabilities in found:
        assert probabilities.shape == (3,)
        assert probabilities.dtype == np.float32
        assert probabilities.sum() == pytest.approx(1)


def test_a_classifier_of_other_classes_than_the_manifests_is_unavailable() -> None:
    model = network("small_classifier", 4)
    runner = ClassificationRunner(model, spec(ModelKind.CLASSIFICATION, classes=3, input_size=64), CPU, 4)

    with pytest.raises(ModelUnavailable, match=r"gives \(1, 4\) for 1 pictures and 3 classes"):
        runner.warm_up()


def test_a_cpu_is_warmed_up_with_the_shape_that_most_photos_have() -> None:
    runner, shapes = detector(input_size=640), list[Any]()
    run = runner.run
    runner.run = lambda batch: shapes.extend(map(runner.bucket, batch)) or run(batch)  # type: ignore[func-returns-value, method-assign]

    runner.warm_up()

    assert set(shapes) == {runner.bucket(runner.prepare(photo(1200, 1600)))}


@pytest.mark.parametrize("architecture", ["fcos_small", "small_classifier"])
def test_a_trunk_in_sixteen_bits_answers_in_thirty_two(architecture: str) -> None:
    model: Any = network(architecture, 2)
    trunk = getattr(model, "backbone", model)
    picture = torch.rand(1, 3, 64, 64)
    exact = trunk(picture)

    reduce_trunk(model, torch.bfloat16, "cpu")
    reduced = trunk(picture)

    for name in exact if isinstance(exact, dict) else [...]:
        assert reduced[name].dtype == torch.float32
        assert not torch.equal(reduced[name], exact[name])
        torch.testing.assert_close(reduced[name], exact[name], atol=0.2, rtol=0.2)
