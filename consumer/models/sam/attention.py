"""Attention between a few tokens and a whole picture, projected on the side of the few.

segment-anything's decoder projects a picture's 4096 places for every prompt, seven times; the prompt itself
has 7 tokens. Multiplication is associative: with W_q, W_k, W_v, W_o and biases b of an attention, q of the
tokens and x, y of the picture, for each head

    (q W_q + b_q)(x W_k + b_k)ᵀ = [(q W_q + b_q) W_kᵀ] xᵀ + c     c the same for every place of the picture
    P (y W_v + b_v)             = (P y) W_v + b_v                  the rows of P sum to one

and softmax does not see c. Towards the picture, with x the places that ask and k, v of the tokens,

    (x W_q + b_q)(k W_k + b_k)ᵀ = x [(k W_k + b_k) W_qᵀ]ᵀ + b_q (k W_k + b_k)ᵀ
    P (v W_v + b_v) W_o + b_o   = P [(v W_v + b_v) W_o] + b_o

so that what is multiplied with the picture is 7 rows a head, made once a prompt. No term is left out: results
differ from stock's by rounding only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class FoldedAttention:
    """A `segment_anything.modeling.transformer.Attention` between tokens and a picture.

    Args:
        attention: stock's, whose weights are used where they are.
    """

    def __init__(self, attention: nn.Module) -> None:
        stock: Any = attention
        self._stock = stock
        self._heads: int = stock.num_heads
        self._channels: int = stock.internal_dim // stock.num_heads
        self._scale = self._channels**-0.5
        # (heads, channels of one, channels of the picture)
        self._w_q, self._w_k, self._w_v = (
            projection.weight.view(self._heads, self._channels, -1)
            for projection in (stock.q_proj, stock.k_proj, stock.v_proj)
        )
        self._b_q: Tensor = stock.q_proj.bias.view(self._heads, self._channels, 1)
        self._b_v: Tensor = stock.v_proj.bias
        self._w_o: Tensor = stock.out_proj.weight.T.reshape(self._heads, self._channels, -1)
        self._b_o: Tensor = stock.out_proj.bias

    def keys(self, x: Tensor) -> Tensor:
        """Return the keys of pictures (pictures, places, channels), by heads, for `of_shared`."""
        return self._by_heads(self._stock.k_proj(x))

    def values(self, y: Tensor) -> Tensor:
        """Return pictures' values, likewise."""
        return self._by_heads(self._stock.v_proj(y))

    def of_shared(self, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return what tokens (n, t, channels) see in pictures about each of which equally many ask, in order.

        With keys and values made once a picture nothing is left to fold, and all its tokens are one batch.

        Args:
            tokens: those of n prompts.
            keys: (pictures, heads, places, channels of a head).
            values: likewise.
        """
        asked = self._stock.q_proj(tokens).view(len(keys), -1, keys.shape[1] * keys.shape[3])
        mixed = functional.scaled_dot_product_attention(
            self._by_heads(asked), keys, values, scale=self._scale
        )
        seen: Tensor = self._stock.out_proj(mixed.transpose(1, 2).reshape(*tokens.shape[:2], -1))
        return seen

    def of_picture(self, tokens: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return what tokens (n, t, channels) see in pictures: what y says where x is, (n, places, channels).

        It is one "head" of 7 x heads rows, as wide as the picture's channels.
        """
        n, t, _ = tokens.shape
        asked = self._of_heads(self._stock.q_proj(tokens).flatten(0, 1))
        folded = self._a_prompt(asked @ self._w_k, n)
        mixed = functional.scaled_dot_product_attention(
            folded[:, None], x[:, None], y[:, None], scale=self._scale
        )
        values = self._a_head(mixed[:, 0], n) @ self._w_v.transpose(1, 2)
        seen: Tensor = self._stock.out_proj(values.transpose(0, 1).reshape(n, t, -1) + self._b_v)
        return seen

    def added_to_picture(self, picture: Tensor, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the picture plus what its places x see in tokens, (n, places, channels).

        Args:
            picture: (n or 1, places, channels).
            x: likewise: the places that ask.
            k: (n, t, channels): by what the tokens are found.
            v: likewise: what they say.
        """
        n, t, _ = k.shape
        keys = self._of_heads(self._stock.k_proj(k).flatten(0, 1)) * self._scale
        said = self._of_heads(self._stock.v_proj(v).flatten(0, 1)) @ self._w_o
        said[0] += self._b_o  # a head's shares sum to one: the bias rides on the first one's
        offsets = self._a_prompt(keys @ self._b_q, n)
        scores = torch.matmul(self._a_prompt(keys @ self._w_q, n), x.transpose(1, 2)).add_(offsets)
        shares = scores.view(n, self._heads, t, -1).softmax(2).view(scores.shape)
        return torch.baddbmm(picture.expand(n, -1, -1), shares.transpose(1, 2), self._a_prompt(said, n))

    def _by_heads(self, rows: Tensor) -> Tensor:
        """(n, rows, heads x channels) as (n, heads, rows, channels)."""
        return rows.view(*rows.shape[:2], self._heads, -1).transpose(1, 2)

    def _of_heads(self, rows: Tensor) -> Tensor:
        """(rows, heads x channels) as (heads, rows, channels)."""
        return rows.view(len(rows), self._heads, -1).transpose(0, 1)

    def _a_prompt(self, rows: Tensor, n: int) -> Tensor:
        """(heads, n x t, channels) as (n, heads x t, channels)."""
        return rows.reshape(self._heads, n, -1, rows.shape[-1]).transpose(0, 1).flatten(1, 2)

    def _a_head(self, rows: Tensor, n: int) -> Tensor:
        """(n, heads x t, channels) as (heads, n x t, channels)."""
        return rows.view(n, self._heads, -1, rows.shape[-1]).transpose(0, 1).flatten(1, 2)
