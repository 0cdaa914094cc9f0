"""segment-anything's mask decoder, for many prompts about a picture.

Three things make it fast, and none of them changes what it computes. What the first layer sees of the
picture is the same for every prompt, so it is made once a picture. Projections of the picture are folded into
the few tokens (`attention.py`). And the estimated quality depends on tokens only, so that masks nobody wants
are never painted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional

from consumer.models.sam.attention import FoldedAttention

_ROWS_AT_ONCE = 1024
"""Places that are enlarged at once: each becomes 16 cells, which should stay in the cache."""


@dataclass(frozen=True, eq=False, slots=True)
class Look:
    """Pictures as the decoder sees them before it knows any prompt; the worker looks at one at a time."""

    places: Tensor
    """(pictures, places, channels): the embedding, with that of "no mask given"."""
    placed: Tensor
    """Likewise, with the positions."""
    keys: Tensor
    """(pictures, heads, places, channels) of the first layer's attention of tokens to the picture."""
    values: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Understood:
    """What the decoder made of n prompts."""

    scores: Tensor
    """(n, 3), or 4 with the single mask: the estimated IoU of each."""
    tokens: Tensor
    """(n, 3 or 4, channels), from which masks are painted."""
    places: Tensor
    """(n, places, channels)."""


class Decoder:
    """`MaskDecoder` and its `TwoWayTransformer`, with three masks a prompt and no mask prompts.

    Args:
        decoder: stock's, whose weights are used where they are.
        positions: (1, channels, height, width), stock's `PromptEncoder.get_dense_pe()`.
        no_mask: (1, channels), stock's embedding of "no mask given".
        single: whether the mask for callers who want no choice is made too, before the three.
    """

    def __init__(
        self, decoder: nn.Module, positions: Tensor, no_mask: Tensor, *, single: bool = False
    ) -> None:
        stock: Any = decoder
        self._stock = stock
        self._size = positions.shape[2:]
        self._positions = _as_rows(positions)
        self._no_mask = no_mask
        self._start = torch.cat([stock.iou_token.weight, stock.mask_tokens.weight])
        self._masks = range(not single, stock.num_mask_tokens)
        transformer = stock.transformer
        self._layers = [
            (
                layer,
                FoldedAttention(layer.cross_attn_token_to_image),
                FoldedAttention(layer.cross_attn_image_to_token),
            )
            for layer in transformer.layers
        ]
        self._last = FoldedAttention(transformer.final_attn_token_to_image)
        self._last_norm = transformer.norm_final_attn
        first, norm, activation, second, last_activation = stock.output_upscaling
        self._enlarge = (Doubling(first, (norm, activation)), Doubling(second, (last_activation,)))

    def look(self, features: Tensor) -> Look:
        """Return what all prompts about a picture share.

        Args:
            features: (pictures, channels, height, width) of the encoder.
        """
        places = _as_rows(features) + self._no_mask
        placed = places + self._positions
        _, attention, _ = self._layers[0]
        return Look(places, placed, attention.keys(placed), attention.values(places))

    def understand(self, look: Look, prompts: Tensor) -> Understood:
        """Run the transformer.

        Args:
            look: at the pictures that they are about.
            prompts: (n, tokens, channels) of the prompt encoder, as many about each picture, in its order.
        """
        given = torch.cat([self._start.expand(len(prompts), -1, -1), prompts], dim=1)
        tokens, places, placed = given, look.places, look.placed
        if len(places) > 1:  # one picture's are the same for every prompt until the first layer is through
            places, placed = (x.repeat_interleave(len(prompts) // len(x), 0) for x in (places, placed))
        for number, (layer, to_picture, to_tokens) in enumerate(self._layers):
            if layer.skip_first_layer_pe:
                tokens = layer.norm1(layer.self_attn(q=tokens, k=tokens, v=tokens))
            else:
                asked = tokens + given
                tokens = layer.norm1(tokens + layer.self_attn(q=asked, k=asked, v=tokens))
            asked = tokens + given
            if number == 0:
                seen = to_picture.of_shared(asked, look.keys, look.values)
            else:
                seen = to_picture.of_picture(asked, placed, places)
            tokens = layer.norm2(tokens + seen)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            places = layer.norm4(to_tokens.added_to_picture(places, placed, tokens + given, tokens))
            placed = places + self._positions
        tokens = self._last_norm(tokens + self._last.of_picture(tokens + given, placed, places))
        scores = self._stock.iou_prediction_head(tokens[:, 0])
        return Understood(
            scores[:, self._masks.start :], tokens[:, 1 + self._masks.start : 1 + self._masks.stop], places
        )

    def paint(self, understood: Understood, prompts: Tensor, masks: Tensor) -> Tensor:
        """Return the logits of chosen masks, (k, cells, cells).

        Args:
            understood: the prompts.
            prompts: (k,), ascending: which prompt each mask is of.
            masks: (k,): which of its three it is.
        """
        wanted, row = torch.unique_consecutive(prompts, return_inverse=True)
        networks = self._stock.output_hypernetworks_mlps
        brushes = torch.stack(
            [networks[i](understood.tokens[wanted, i - self._masks.start]) for i in self._masks], dim=1
        )
        pairs = zip(wanted.tolist(), brushes, strict=True)
        painted = torch.stack([self._painted(understood.places[i], three) for i, three in pairs])
        height, width = self._size
        # A place became 2 x 2 places of 2 x 2 cells; only now are they laid out.
        laid_out = painted[row, masks].view(-1, height, width, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        return laid_out.reshape(-1, 4 * height, 4 * width)

    def _painted(self, places: Tensor, brushes: Tensor) -> Tensor:
        """Return brushes (3, channels) times `output_upscaling` of places: (3, places x 16 cells).

        Stock's convolutions have the stride of their kernel: each place is enlarged by itself, so it stays a
        row, and as many rows are done at once as the cache holds.
        """
        first, second = self._enlarge
        return torch.cat(
            [brushes @ second(first(some)).T for some in torch.split(places, _ROWS_AT_ONCE)], dim=1
        )


class Doubling:
    """A `ConvTranspose2d` of kernel and stride 2 as what it is: each place times one matrix, 4 places wide.

    Args:
        convolution: stock's.
        after: what follows it, place by place; a `LayerNorm2d` is the layer norm of each place.
    """

    def __init__(self, convolution: nn.Module, after: tuple[nn.Module, ...]) -> None:
        stock: Any = convolution
        weight: Tensor = stock.weight  # (in, out, 2, 2)
        self._channels = weight.shape[1]
        self._weight = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
        self._bias = stock.bias.repeat(4)
        self._after: list[Any] = list(after)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return (4 x rows, channels out) of (rows, channels in)."""
        doubled = torch.addmm(self._bias, rows, self._weight).view(-1, self._channels)
        for module in self._after:
            if isinstance(module, LayerNorm2d):
                doubled = functional.layer_norm(
                    doubled, (self._channels,), module.weight, module.bias, module.eps
                )
            else:
                doubled = module(doubled)
        return doubled


def _as_rows(maps: Tensor) -> Tensor:
    """(n, channels, height, width) as (n, places, channels)."""
    return maps.flatten(2).transpose(1, 2).contiguous()
