"""Our SAM against stock's, with the same weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import PromptEncoder, Sam

from consumer.models.precision import reduce_trunk
from consumer.models.runner import MaskFound, Prompt, warm_up_sizes
from consumer.models.sam import SamEmbedding, SamRunner
from pipeline_steps.artifacts import Mask, Pixels
from pipeline_steps.errors import ModelUnavailable
from pipeline_steps.models import MaskQuality, ModelKind, SketchedMasks
from tests.models import sams
from tests.models.random_models import photo, spec
from tests.models.sams import CPU, iou, whole

EVERY = MaskQuality(0, 0)


@pytest.fixture(scope="module", params=["shipped", "vit", "odd"])
def sam(request: pytest.FixtureRequest) -> Sam:
    return sams.sam(request.param)


@pytest.fixture
def runner(sam: Sam) -> SamRunner:
    return sams.runner(sam)


def embed(runner: SamRunner, *pictures: Pixels) -> list[SamEmbedding]:
    return runner.run([runner.prepare(picture) for picture in pictures])  # type: ignore[return-value]


def ask(runner: SamRunner, embedding: SamEmbedding, prompts: list[list[float]]) -> list[MaskFound]:
    return runner.run([Prompt(embedding, np.array(at, np.float32)) for at in prompts])  # type: ignore[return-value]


def stock(sam: Sam, picture: Pixels) -> SamPredictor:
    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    return predictor


def best(predictor: SamPredictor, at: list[float]) -> tuple[npt.NDArray[np.bool_], float]:
    """Return stock's best of three masks, and its score."""
    prompt = np.array(at, np.float32)
    if len(at) == 4:
        masks, scores, _ = predictor.predict(box=prompt)
    else:
        masks, scores, _ = predictor.predict(point_coords=prompt[None], point_labels=np.ones(1))
    return masks[scores.argmax()], float(scores.max())


@pytest.mark.parametrize(("height", "width"), [(300, 400), (900, 600), (120, 90), (256, 256), (33, 700)])
def test_masks_and_scores_are_stocks(sam: Sam, runner: SamRunner, height: int, width: int) -> None:
    picture = photo(height, width)
    boxes = [[width * a, height * a, width * b, height * b] for a, b in ((0.1, 0.5), (0.4, 0.9), (0.0, 1.0))]
    points = [[width * x, height * y] for x, y in ((0.2, 0.3), (0.5, 0.5), (0.9, 0.8))]
    (embedding,) = embed(runner, picture)
    predictor = stock(sam, picture)

    shares = []
    for prompts in (boxes, points):
        for at, (mask, score) in zip(prompts, ask(runner, embedding, prompts), strict=True):
            expected, expected_score = best(predictor, at)
            shares.append(expected.mean())
            assert iou(whole(mask, height, width), expected) >= 0.99
            assert score == pytest.approx(expected_score, abs=1e-3)
    assert min(shares) > 0
    assert sum(share < 1 for share in shares) >= 3  # or the comparison says little


def test_prompts_about_several_pictures_share_a_batch(sam: Sam, runner: SamRunner) -> None:
    pictures = [photo(200, 300, seed=1), photo(300, 200, seed=2)]
    embeddings = embed(runner, *pictures)
    at = np.array([20, 30, 120, 150], np.float32)

    together = runner.run([Prompt(embedding, at) for embedding in embeddings])

    for picture, (mask, _) in zip(pictures, together, strict=True):  # type: ignore[misc]
        expected, _ = best(stock(sam, picture), at.tolist())
        assert iou(whole(mask, *picture.shape[:2]), expected) >= 0.99


def test_chunks_of_points_about_several_pictures_share_a_batch(runner: SamRunner) -> None:
    one, other = embed(runner, photo(200, 300, seed=1), photo(300, 200, seed=2))
    points = np.random.default_rng(0).random((3, 4, 2)) * 200
    asked = [Prompt(one, points[0], EVERY), Prompt(other, points[1], EVERY), Prompt(one, points[2], EVERY)]

    together = runner.run(asked)

    for prompt, found in zip(asked, together, strict=True):
        (alone,) = runner.run([prompt])
        assert isinstance(found, SketchedMasks)
        assert isinstance(alone, SketchedMasks)
        assert found.point.tolist() == prompt.at.repeat(3, axis=0).tolist()
        np.testing.assert_allclose(found.score, alone.score, atol=1e-5)
        np.testing.assert_allclose(found.area, alone.area, atol=3)


def test_points_none_of_whose_masks_is_good_give_no_masks(runner: SamRunner) -> None:
    (embedding,) = embed(runner, photo(64, 64))
    points = np.full((4, 2), 30.0)
    sure, unsure = MaskQuality(0.0, 0.0), MaskQuality(1e9, 0.0)

    nothing, something = runner.run([Prompt(embedding, points, quality) for quality in (unsure, sure)])

    assert (len(nothing), len(something)) == (0, 12)


def test_prompts_at_the_same_places_are_encoded_once_whatever_the_picture(
    runner: SamRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[object] = []
    stocks = PromptEncoder.forward

    def noted(self: PromptEncoder, **asked: object) -> object:
        encoded.append(asked)
        return stocks(self, **asked)

    embeddings = embed(runner, photo(200, 300, seed=1), photo(200, 300, seed=2))
    monkeypatch.setattr(PromptEncoder, "forward", noted)
    points = np.random.default_rng(0).random((4, 2)) * 200

    for embedding in (*embeddings, *embeddings):
        runner.run([Prompt(embedding, points, EVERY)])
    assert len(encoded) == 1

    runner.run([Prompt(embeddings[0], points + 1, EVERY)])
    assert len(encoded) == 2


def test_an_embedding_does_not_depend_on_whom_it_was_made_with(runner: SamRunner) -> None:
    pictures = [photo(200, 300, seed=1), photo(300, 200, seed=2), photo(80, 80, seed=3)]

    together = embed(runner, *pictures)

    for picture, embedding in zip(pictures, together, strict=True):
        (alone,) = embed(runner, picture)
        torch.testing.assert_close(embedding.look.places, alone.look.places, atol=1e-4, rtol=1e-4)
        # Or one picture that is asked about would keep its whole batch in memory.
        assert embedding.look.places.untyped_storage().nbytes() == alone.look.places.nbytes


def test_a_mask_without_a_pixel_is_one_pixel_of_background(runner: SamRunner, sam: Sam) -> None:
    (embedding,) = embed(runner, photo(200, 300))
    sam.mask_threshold = 1e9
    try:
        ((mask, _),) = ask(runner, embedding, [[250.0, 150.0, 290.0, 190.0]])
    finally:
        sam.mask_threshold = 0.0

    assert mask == Mask(np.zeros((1, 1), np.bool_), 270, 170)


def test_pictures_boxes_points_and_grids_are_four_batches(runner: SamRunner) -> None:
    (embedding,) = embed(runner, photo(64, 64))
    prompts = [Prompt(embedding, np.zeros(n, np.float32)) for n in (4, 2)]
    grid = Prompt(embedding, np.zeros((4, 2)), MaskQuality(0.5, 0.5))

    buckets = [runner.bucket(item) for item in [runner.prepare(photo(64, 64)), *prompts, grid]]

    assert buckets == ["pictures", "boxes", "points", "grids"]
    assert [runner.max_batch(bucket) for bucket in buckets] == [4, 8, 8, 1]


def test_the_warm_up_on_a_cpu_runs_one_of_each(runner: SamRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    (embedding,) = embed(runner, photo(64, 64))

    def embedded(batch: Sequence[object]) -> list[SamEmbedding]:
        seen.append(("pictures", len(batch)))
        return [embedding] * len(batch)

    def masked(batch: Sequence[Prompt]) -> list[MaskFound]:
        seen.append((str(runner.bucket(batch[0])), len(batch)))
        return []

    def searched(batch: Sequence[Prompt]) -> list[SketchedMasks]:
        seen.append((str(runner.bucket(batch[0])), len(batch)))
        return []

    monkeypatch.setattr(runner, "_embed", embedded)
    monkeypatch.setattr(runner, "_best_masks", masked)
    monkeypatch.setattr(runner, "_every_mask", searched)

    runner.warm_up()

    assert seen == [("pictures", 1), ("boxes", 1), ("points", 1), ("grids", 1)]


def test_the_warm_up_on_a_gpu_runs_every_size_a_batch_is_made_for() -> None:
    assert list(warm_up_sizes(8, "cuda")) == [1, 2, 4, 8]


def test_the_manifests_input_size_must_be_the_networks(sam: Sam) -> None:
    with pytest.raises(ModelUnavailable, match="input_size is 1024, but the network sees"):
        SamRunner(sam, spec(ModelKind.SAM, input_size=1024), CPU, 1)


def test_an_embedding_is_stocks(sam: Sam, runner: SamRunner) -> None:
    picture = photo(300, 400)

    (embedding,) = embed(runner, picture)

    expected = stock(sam, picture).get_image_embedding()[0]
    places = expected.flatten(1).T + sam.prompt_encoder.no_mask_embed.weight
    torch.testing.assert_close(embedding.look.places[0], places, atol=2e-5, rtol=1e-5)


def test_stocks_modules_stay_as_they_are(sam: Sam) -> None:
    before = {name: vars(module).keys() for name, module in sam.named_modules()}

    sams.runner(sam).warm_up()

    assert {name: vars(module).keys() for name, module in sam.named_modules()} == before


def test_a_trunk_in_16_bits_stays_in_16_bits() -> None:
    network = copy.deepcopy(sams.sam("vit"))
    reduce_trunk(network, torch.bfloat16, "cpu")
    picture = photo(100, 100)

    (rough,) = embed(sams.runner(network), picture)
    (exact,) = embed(sams.runner(sams.sam("vit")), picture)

    assert rough.look.places.dtype == torch.float32
    assert not torch.allclose(rough.look.places, exact.look.places, atol=1e-4)
    torch.testing.assert_close(rough.look.places, exact.look.places, atol=0.2, rtol=0.2)


def test_a_read_only_or_mirrored_picture_is_seen_as_it_is(runner: SamRunner) -> None:
    picture = photo(60, 80)
    frozen = picture.copy()
    frozen.flags.writeable = False

    shown = [runner.prepare(p) for p in (frozen, picture[:, ::-1][:, ::-1], picture[:, ::-1].copy()[:, ::-1])]

    for one in shown:
        assert torch.equal(one.image, runner.prepare(picture).image)  # type: ignore[union-attr]
