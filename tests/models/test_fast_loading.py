"""Networks as the worker loads them, held against the same networks loaded plainly: bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from consumer.models.architectures import ARCHITECTURES
from consumer.models.manifest import ModelEntry
from consumer.models.weights import load
from tests.models.random_models import sha256

STOCK_SAM = {"vit_b", "vit_l", "vit_h"}
TOO_LARGE = {"vit_l", "vit_h"}
"""Gigabytes; built by the same code as `vit_b`."""
CLASSES = 2


def entry(architecture: str, file: Path) -> ModelEntry:
    is_sam = architecture in STOCK_SAM or architecture == "sam_small"
    return ModelEntry.model_validate(
        {
            "name": "m",
            "kind": "sam" if is_sam else "detection",
            "architecture": architecture,
            "weights": file.name,
            "sha256": sha256(file),
            "version": "1",
            "classes": () if is_sam else tuple("abcdefgh"[:CLASSES]),
            "input_size": 256,
        }
    )


@contextmanager
def unset_memory_shows() -> Iterator[None]:
    """Memory that is taken and not written holds NaN meanwhile, so that no number is right by chance."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Every tensor of a network: parameters, all buffers, and what hangs on its modules besides."""
    found: dict[str, Tensor] = dict(network.named_parameters()) | dict(network.named_buffers())
    for name, module in network.named_modules():
        for attribute, value in vars(module).items():
            several = value if isinstance(value, (list, tuple)) else [value]
            found |= {
                f"{name}.{attribute}.{i}": one for i, one in enumerate(several) if isinstance(one, Tensor)
            }
    return found


def answers(network: Any) -> list[Tensor]:
    """What it answers to something: as numbers, in a fixed order."""
    torch.manual_seed(1)
    if hasattr(network, "mask_decoder"):
        prompts, decoder = network.prompt_encoder, network.mask_decoder
        width = prompts.embed_dim
        seen = torch.randn(1, width, *prompts.image_embedding_size)
        boxes, _ = prompts(points=None, boxes=torch.tensor([[20.0, 30.0, 90.0, 80.0]]), masks=None)
        _, dense = prompts(points=None, boxes=torch.zeros(1, 4), masks=None)
        return list(decoder(seen, prompts.get_dense_pe(), boxes, dense, multimask_output=True))
    if hasattr(network, "transform"):
        network.transform.min_size, network.transform.max_size = (128,), 128
        (found,) = network([torch.rand(3, 96, 128)])
        return list(found.values())
    answer = network(torch.randn(2, 3, 64, 64) if not hasattr(network, "conv_proj") else seen_by_vit())
    return list(answer.values()) if isinstance(answer, dict) else [answer]


def seen_by_vit() -> Tensor:
    return torch.randn(1, 3, 224, 224)


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - TOO_LARGE))
def test_a_network_is_the_one_that_plain_loading_gives(architecture: str, tmp_path: Path) -> None:
    build = ARCHITECTURES[architecture]
    file = tmp_path / "m.pth"
    torch.manual_seed(7)
    torch.save(build(CLASSES).state_dict(), file)  # as segment-anything and torchvision publish theirs
    plain = build(CLASSES)
    plain.load_state_dict(torch.load(file, weights_only=True))

    with unset_memory_shows():
        fast = load(entry(architecture, file), file, ARCHITECTURES)

    expected, found = tensors(plain), tensors(fast)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert (found[name].dtype, found[name].stride()) == (tensor.dtype, tensor.stride()), name
    assert [m.training for m in fast.modules()] == [m.training for m in plain.modules()]
    assert str(fast) == str(plain)
    for one, other in zip(answers(fast), answers(plain), strict=True):
        assert torch.equal(one, other)


def test_what_no_file_holds_is_found_where_it_is_looked_for() -> None:
    """The comparison sees what is easily lost: buffers that no file holds, tensors that are no buffers."""
    sam, detector = tensors(ARCHITECTURES["sam_small"](0)), tensors(ARCHITECTURES["maskrcnn_small"](CLASSES))

    assert "pixel_mean" in sam
    assert "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" in sam
    assert any("cell_anchors" in name for name in detector)


def test_memory_that_nobody_writes_would_be_seen() -> None:
    with unset_memory_shows():
        assert torch.empty(3).isnan().all()
