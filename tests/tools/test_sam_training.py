"""What the small SAM is shown in training agrees with what the worker computes later."""

import numpy as np
import pytest
import torch
from segment_anything.modeling.image_encoder import Attention
from torch import nn

from consumer.models.architectures import sam_small
from tools.demo_training.batches import NEAR, WHOLE, View, batches
from tools.demo_training.decoding import TrainingDecoder
from tools.demo_training.encoder import FusedAttention, prepare
from tools.demo_training.examples import SIDE, Example, make_examples
from tools.demo_training.extents import PLACE, Extents, reaches
from tools.demo_training.promptable import batch_loss
from tools.demo_training.prompts import encoded


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Ten pictures that no training sees."""
    return make_examples(10, 2_100_000_000)


@pytest.mark.parametrize("view", [WHOLE, NEAR])
def test_every_point_lies_on_its_object_wherever_the_part_stands(examples: list[Example], view: View) -> None:
    stream = batches(examples, view, seed=3)
    corners = set()
    for batch in (next(stream) for _ in range(12)):
        corner = np.array([batch.left, batch.top]) * PLACE
        corners.add((batch.left, batch.top))
        assert batch.pictures.shape == (view.pictures, 3, view.side, view.side)
        for asked in batch.asked:
            for mask, points in zip(asked.masks, asked.points, strict=True):
                column, row = (points[0] - corner).astype(int)
                assert mask[row, column]
        assert (corner + view.side <= SIDE).all()
    assert (len(corners) > 1) == (view.side < SIDE)


def test_every_place_is_told_how_far_its_thing_reaches() -> None:
    maps = np.zeros((2, 32, 32), dtype=np.uint16)
    maps[0, 2:9, 3:13] = 7  # around the middles of the first two places of the first row
    maps[0, 18:30, 18:22] = 9  # around one of the third row and one of the fourth

    present, reach = reaches(maps)

    quarters = reach.expm1() * 4
    assert present.shape == (2, 4, 4)
    assert present.nonzero().tolist() == [[0, 0, 0], [0, 0, 1], [0, 2, 2], [0, 3, 2]]
    torch.testing.assert_close(quarters[0, :, 0, 0], torch.tensor([1.0, 2.0, 8.0, 4.0]))
    torch.testing.assert_close(quarters[0, :, 0, 1], torch.tensor([9.0, 2.0, 0.0, 4.0]))
    torch.testing.assert_close(quarters[0, :, 2, 2], torch.tensor([2.0, 2.0, 1.0, 9.0]))


def test_extents_that_are_right_cost_nothing_and_wrong_ones_do() -> None:
    maps = np.zeros((2, 32, 32), dtype=np.uint16)
    maps[1, 4:30, 4:30] = 1
    present, reach = (one[None] for one in reaches(maps))
    answers = torch.cat([40 * (present[:, :, None] - 0.5), reach], dim=2).flatten(1, 2)
    head = Extents(10)
    nn.init.dirac_(head.head.weight)
    nn.init.zeros_(head.head.bias)

    right = head.loss(answers, present, reach)

    assert right.item() == pytest.approx(0, abs=1e-6)
    assert head.loss(answers, 1 - present, reach).item() > 1
    assert head.loss(answers, present, reach + 1).item() > 0.5


def test_a_part_attends_by_the_distances_that_the_whole_knows() -> None:
    torch.manual_seed(4)
    whole = Attention(32, num_heads=4, qkv_bias=True, use_rel_pos=True, input_size=(6, 6))
    for table in (whole.rel_pos_h, whole.rel_pos_w):
        nn.init.normal_(table, std=0.3)
    part = Attention(32, num_heads=4, qkv_bias=True, use_rel_pos=True, input_size=(3, 3))
    known = whole.state_dict()
    for name in ("rel_pos_h", "rel_pos_w"):  # distances of -2 to 2 out of -5 to 5
        known[name] = known[name][3:8]
    part.load_state_dict(known)
    pictures = torch.randn(2, 3, 3, 32)
    whole.__class__ = FusedAttention

    torch.testing.assert_close(whole(pictures), part(pictures))


def test_masks_painted_together_are_those_the_worker_paints_one_by_one(examples: list[Example]) -> None:
    torch.manual_seed(5)
    network = sam_small()
    batch = next(batches(examples, NEAR, seed=1))
    decoder = TrainingDecoder.of(network, batch.top, batch.left, NEAR.side // PLACE)
    embeddings = torch.randn(len(batch.asked), 128, NEAR.side // PLACE, NEAR.side // PLACE)
    given = torch.cat([encoded(network, asked, "box") for asked in batch.asked])

    logits, _ = decoder.answer(embeddings, given)

    understood = decoder.understand(decoder.look(embeddings), given)
    prompts, kinds = logits.shape[:2]
    alone = decoder.paint(
        understood, torch.arange(prompts).repeat_interleave(kinds), torch.arange(kinds).repeat(prompts)
    )
    torch.testing.assert_close(logits.flatten(0, 1), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("view", [WHOLE, NEAR])
def test_every_weight_that_the_worker_uses_learns_from_a_batch(examples: list[Example], view: View) -> None:
    torch.manual_seed(6)
    network = sam_small().train()
    network.extents = Extents(128)
    prepare(network.image_encoder)
    stream, rng = batches(examples, view, seed=2), np.random.default_rng(0)
    for _ in range(2):
        batch_loss(network, next(stream), rng, 1.0).backward()

    # A bias of keys is the same for all that are compared; and of the pyramid only one level is used.
    unused = ("prompt_encoder.", "image_encoder.patch_embed.pyramid.")
    still = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert [name for name in still if not name.startswith(unused) and not name.endswith("k_proj.bias")] == []
