"""What the small SAM is shown in training agrees with what the worker computes later."""

import numpy as np
import pytest
import torch
from segment_anything.modeling.image_encoder import Attention
from torch import nn

from consumer.models.architectures import sam_small
from tools.demo_training.batches import NEAR, PLACE, WHOLE, View, batches
from tools.demo_training.decoding import TrainingDecoder
from tools.demo_training.encoder import FusedAttention, prepare
from tools.demo_training.examples import SIDE, Example, make_examples
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
    prepare(network.image_encoder)
    stream, rng = batches(examples, view, seed=2), np.random.default_rng(0)
    for _ in range(2):
        batch_loss(network, next(stream), rng).backward()

    # A bias of keys is the same for all that are compared; and of the pyramid only one level is used.
    unused = ("prompt_encoder.", "image_encoder.patch_embed.pyramid.")
    still = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert [name for name in still if not name.startswith(unused) and not name.endswith("k_proj.bias")] == []
