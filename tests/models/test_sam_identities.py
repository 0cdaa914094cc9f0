"""The algebra of our SAM: each rewrite against what it rewrites, stated as an identity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.transformer import Attention
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn
from torch.nn import functional

from consumer.models.sam import encoder
from consumer.models.sam.attention import FoldedAttention
from consumer.models.sam.decoder import Decoder, Doubling
from consumer.models.sam.encoder import encode, unwindowed, windowed
from consumer.models.sam.pictures import shown
from consumer.models.sam.stretch import BLOCK, sam_stretch
from pipeline_steps.errors import InvalidInput
from tests.models.random_models import photo
from tests.models.sams import CPU, sam

PROMPTS, TOKENS, PLACES, CHANNELS = 3, 7, 50, 32
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def attention() -> Attention:
    return Attention(CHANNELS, 4, downsample_rate=2).requires_grad_(False)


def test_projecting_tokens_to_the_picture_is_projecting_the_picture_to_the_tokens(
    attention: Attention,
) -> None:
    tokens = torch.randn(PROMPTS, TOKENS, CHANNELS)
    x, y = torch.randn(2, PROMPTS, PLACES, CHANNELS)

    folded = FoldedAttention(attention).of_picture(tokens, x, y)

    torch.testing.assert_close(folded, attention(q=tokens, k=x, v=y), **CLOSE)


@pytest.mark.parametrize("pictures", [1, 2])
def test_prompts_about_a_picture_share_its_keys_and_values(attention: Attention, pictures: int) -> None:
    tokens = torch.randn(2 * PROMPTS, TOKENS, CHANNELS)
    x, y = torch.randn(2, pictures, PLACES, CHANNELS)
    folded = FoldedAttention(attention)

    shared = folded.of_shared(tokens, folded.keys(x), folded.values(y))

    x, y = (shown.repeat_interleave(2 * PROMPTS // pictures, 0) for shown in (x, y))
    torch.testing.assert_close(shared, attention(q=tokens, k=x, v=y), **CLOSE)


@pytest.mark.parametrize("pictures", [1, PROMPTS])
def test_what_places_see_in_tokens_is_folded_into_the_tokens(attention: Attention, pictures: int) -> None:
    picture, x = torch.randn(2, pictures, PLACES, CHANNELS)
    k, v = torch.randn(2, PROMPTS, TOKENS, CHANNELS)

    added = FoldedAttention(attention).added_to_picture(picture, x, k, v)

    expected = picture + attention(q=x.expand(PROMPTS, -1, -1), k=k, v=v)
    torch.testing.assert_close(added, expected, **CLOSE)


@pytest.mark.parametrize("size", [(2, 3), (6, 9)])
def test_windows_are_stocks_and_go_back_to_where_they_were(size: tuple[int, int]) -> None:
    heads, channels, rows, columns = 2, 5, *size
    down, across = 6 // rows, 9 // columns
    qkv = torch.randn(2, 6, 9, 3 * heads * channels)

    parts = windowed(qkv, size, heads)

    for part, wanted in zip(parts, qkv.chunk(3, 3), strict=True):
        cut = wanted.unfold(1, rows, rows).unfold(
            2, columns, columns
        )  # windows, as stock's partition has them
        expected = cut.reshape(2 * down * across, heads, channels, rows * columns).transpose(2, 3)
        torch.testing.assert_close(part, expected, atol=0, rtol=0)
        torch.testing.assert_close(unwindowed(part, size, (down, across)), wanted, atol=0, rtol=0)


def test_a_transposed_convolution_of_stride_two_is_a_matrix_for_each_place() -> None:
    convolution, norm = nn.ConvTranspose2d(CHANNELS, 8, 2, stride=2), LayerNorm2d(8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    image = torch.randn(1, CHANNELS, 5, 6)

    rows = Doubling(convolution, (norm, nn.GELU()))(image.flatten(2)[0].T)

    laid_out = rows.view(5, 6, 2, 2, 8).permute(4, 0, 2, 1, 3).reshape(1, 8, 10, 12)
    torch.testing.assert_close(laid_out, functional.gelu(norm(convolution(image))), **CLOSE)


@pytest.mark.parametrize("name", ["shipped", "vit", "odd"])
def test_the_encoder_with_fused_attention_is_stocks(name: str) -> None:
    network = sam(name).image_encoder
    images = torch.randn(2, 3, network.img_size, network.img_size)

    torch.testing.assert_close(encode(network, images), network(images), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("at_once", [1, 10_000, 60_000])
def test_attention_made_piece_by_piece_is_the_same(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(encoder, "_BYTES_ON_CPU", at_once)
    network = sam("vit").image_encoder
    images = torch.randn(2, 3, network.img_size, network.img_size)

    torch.testing.assert_close(encode(network, images), network(images), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["shipped", "vit", "odd"])
@pytest.mark.parametrize("boxes", [True, False])
def test_the_decoder_is_stocks(name: str, boxes: bool) -> None:
    network = sam(name)
    side = network.image_encoder.img_size
    features = network.image_encoder(torch.randn(1, 3, side, side))
    corners = torch.rand(4, 2, 2).sort(1).values * side
    points = (corners[:, :1], torch.ones(4, 1))
    prompts, dense = network.prompt_encoder(
        points=None if boxes else points, boxes=corners.view(4, 4) if boxes else None, masks=None
    )
    positions = network.prompt_encoder.get_dense_pe()
    masks, scores = network.mask_decoder(features, positions, prompts, dense, multimask_output=True)

    decoder = Decoder(network.mask_decoder, positions, network.prompt_encoder.no_mask_embed.weight)
    understood = decoder.understand(decoder.look(features), prompts)
    painted = decoder.paint(understood, torch.arange(4).repeat_interleave(3), torch.arange(3).repeat(4))

    torch.testing.assert_close(understood.scores, scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(painted.view(masks.shape), masks, atol=1e-4, rtol=0)


def test_prompts_about_several_pictures_are_understood_as_about_each_alone() -> None:
    network = sam("vit")
    positions = network.prompt_encoder.get_dense_pe()
    decoder = Decoder(network.mask_decoder, positions, network.prompt_encoder.no_mask_embed.weight)
    prompts, _ = network.prompt_encoder(
        points=(torch.rand(6, 1, 2) * 160, torch.ones(6, 1)), boxes=None, masks=None
    )
    features = torch.randn(2, *positions.shape[1:])

    together = decoder.understand(decoder.look(features), prompts)

    alone = [
        decoder.understand(decoder.look(features[i : i + 1]), prompts[3 * i : 3 * i + 3]) for i in (0, 1)
    ]
    for name in ("scores", "tokens", "places"):
        expected = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), expected, atol=1e-5, rtol=0)


def test_only_the_masks_that_are_asked_for_are_painted() -> None:
    network = sam("vit")
    positions = network.prompt_encoder.get_dense_pe()
    decoder = Decoder(network.mask_decoder, positions, network.prompt_encoder.no_mask_embed.weight)
    prompts, _ = network.prompt_encoder(
        points=(torch.rand(4, 1, 2) * 160, torch.ones(4, 1)), boxes=None, masks=None
    )
    understood = decoder.understand(decoder.look(torch.randn(positions.shape)), prompts)
    every = decoder.paint(understood, torch.arange(4).repeat_interleave(3), torch.arange(3).repeat(4))

    some = decoder.paint(understood, torch.tensor([0, 2, 2]), torch.tensor([2, 0, 1]))

    torch.testing.assert_close(some, every[[2, 6, 7]], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("shown_side", "given"), [(64, 64), (43, 500), (64, 33), (64, 31), (1, 7)])
def test_the_blocks_of_a_stretch_are_stocks_two_interpolations_in_one_matrix(
    shown_side: int, given: int
) -> None:
    cells, side = 16, 64
    axis = sam_stretch(cells, side, shown_side, given, CPU)
    matrix = torch.zeros(len(axis.cells) * BLOCK, cells)
    matrix.scatter_(1, axis.cells.repeat_interleave(BLOCK, 0), axis.weights.flatten(0, 1))
    values = torch.randn(cells)

    stretched = functional.interpolate(values[None, None], side, mode="linear")[..., :shown_side]
    expected = functional.interpolate(stretched, given, mode="linear")[0, 0]
    torch.testing.assert_close((matrix @ values)[:given], expected, **CLOSE)
    assert torch.isnan(axis.weights.flatten(0, 1)[given:]).all()
    assert int(axis.sizes.sum()) == given


@pytest.mark.parametrize(
    ("height", "width"),
    [(300, 400), (1300, 90), (1400, 800), (600, 1400), (90, 1300), (256, 256), (10, 7), (7, 10), (1, 1)],
)
def test_pictures_are_shown_to_the_last_byte_as_stock_shows_them(height: int, width: int) -> None:
    picture = photo(height, width)

    seen = shown(picture[:, ::-1], 256)

    expected = ResizeLongestSide(256).apply_image(picture[:, ::-1])
    assert np.array_equal(_as_image(seen.image), expected)
    assert (seen.height, seen.width) == (height, width)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (0, 4, 3)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="expected pixels of uint8"):
        shown(np.zeros(shape, np.uint8), 256)


def _as_image(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return image.permute(1, 2, 0).numpy()
