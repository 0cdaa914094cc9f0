"""segment-anything's image encoder, with its attention fused.

Stock writes out every head's attention, 805 MB of floats a picture in a layer of ViT-B, and reads it three
times. Here torch's fused attention makes it piece by piece, in the cache. The weights are stock's, and stay
in stock's modules.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_BIAS_BYTES = 64 * 2**20
"""What the positions of the heads that are attended at once may need: ViT-B's global layers take a head at a
time on one picture, and windows all of them."""


def encode(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return what `ImageEncoderViT.forward` does.

    Args:
        encoder: a `segment_anything.modeling.ImageEncoderViT`.
        images: (n, 3, side, side), normalised.
    """
    vit = cast(Any, encoder)
    x: Tensor = vit.patch_embed(images)
    if vit.pos_embed is not None:
        x = x + vit.pos_embed
    for block in vit.blocks:
        x = x + _attended(block.attn, block.norm1(x), block.window_size)
        x = x + block.mlp(block.norm2(x))
    embedded: Tensor = vit.neck(x.permute(0, 3, 1, 2))
    return embedded


def _attended(attention: Any, x: Tensor, window: int) -> Tensor:
    """Return the attention of x (n, height, width, channels) within windows, or over all of it for window 0.

    Stock fills up the last windows with tokens of zeros before it projects. The projection of zero is the
    bias, so it is enough to fill up with that afterwards; and what the filling is answered is cut off before
    the last projection instead of after it.
    """
    n, height, width, _ = x.shape
    qkv: Tensor = attention.qkv(x)
    rows, columns = (window, window) if window else (height, width)
    down, across = -(-height // rows), -(-width // columns)
    if (down * rows, across * columns) != (height, width):
        filled = qkv.new_empty(n, down * rows, across * columns, qkv.shape[-1])
        filled[:] = 0.0 if attention.qkv.bias is None else attention.qkv.bias
        filled[:, :height, :width] = qkv
        qkv = filled
    qkv = qkv.view(n, down, rows, across, columns, 3, attention.num_heads, -1)
    q, k, v = (
        qkv.permute(5, 0, 1, 3, 6, 2, 4, 7)
        .contiguous()
        .view(3, n * down * across, attention.num_heads, rows * columns, -1)
    )
    mixed = _heads(attention, q, k, v, (rows, columns))
    mixed = mixed.view(n, down, across, attention.num_heads, rows, columns, -1)
    mixed = mixed.permute(0, 1, 4, 2, 5, 3, 6).reshape(n, down * rows, across * columns, -1)
    projected: Tensor = attention.proj(mixed[:, :height, :width])
    return projected


def _heads(attention: Any, q: Tensor, k: Tensor, v: Tensor, size: tuple[int, int]) -> Tensor:
    """Return softmax(q kᵀ·scale + positions) v for (windows, heads, tokens, channels)."""
    if not attention.use_rel_pos:
        return functional.scaled_dot_product_attention(q, k, v, scale=attention.scale)
    windows, heads, tokens, channels = q.shape
    down = _distances(attention.rel_pos_h, size[0])
    across = _distances(attention.rel_pos_w, size[1])
    mixed = torch.empty_like(q)
    # Of as many heads at once as fit: whole windows, or heads of one.
    q, k, v, flat = (t.view(windows * heads, 1, tokens, channels) for t in (q, k, v, mixed))
    most = max(1, _BIAS_BYTES // (q.element_size() * tokens * tokens))
    for start in range(0, len(q), most):
        some = slice(start, start + most)
        flat[some] = functional.scaled_dot_product_attention(
            q[some], k[some], v[some], attn_mask=_positions(q[some], down, across), scale=attention.scale
        )
    return mixed


def _positions(q: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Return what the places of query and key add to each score, (heads, 1, tokens, tokens).

    A sum of two tables, q·R_h[rows apart] + q·R_w[columns apart]: the "decomposed relative positions" of
    MViTv2, as `add_decomposed_rel_pos` adds them.
    """
    heads, rows, columns = len(q), len(down), len(across)
    placed = q.view(heads, rows, columns, -1)
    vertical = placed @ down.transpose(1, 2)
    horizontal = (placed.transpose(1, 2) @ across.transpose(1, 2)).transpose(1, 2)
    positions = q.new_empty(heads, rows, columns, rows, columns)
    torch.add(vertical[..., :, None], horizontal[..., None, :], out=positions)
    return positions.view(heads, 1, rows * columns, rows * columns)


def _distances(table: Tensor, size: int) -> Tensor:
    """Return the table's row for every two places of an axis, (size, size, channels), as `get_rel_pos`."""
    wanted = 2 * size - 1
    if len(table) != wanted:
        table = functional.interpolate(table.T[None], size=wanted, mode="linear")[0].T
    places = torch.arange(size, device=table.device)
    return table[places[:, None] - places[None, :] + size - 1]
