"""segment-anything's image encoder, with its attention fused.

Stock writes out every head's attention, 805 MB of floats a picture in a layer of ViT-B, and reads it three
times. Here torch's fused attention makes it piece by piece, in the cache. The weights are stock's, and stay
in stock's modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_BYTES_ON_CPU = 8 * 2**20
"""Of positions, which are written and read a piece at a time, in the cache: eight rows of one head of ViT-B's
global layers, or all heads of four of its windows."""
_BYTES_ON_GPU = 512 * 2**20


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
    q, k, v = windowed(qkv, (rows, columns), attention.num_heads)
    mixed = _heads(attention, q, k, v, (rows, columns))
    joined = unwindowed(mixed, (rows, columns), (down, across))
    projected: Tensor = attention.proj(joined[:, :height, :width])
    return projected


def windowed(qkv: Tensor, size: tuple[int, int], heads: int) -> Tensor:
    """Return the windows of (n, height, width, 3 * heads * channels), of `size` (rows, columns).

    They are (3, windows, heads, tokens, channels): queries, keys and values, window by window.
    """
    n, height, width, _ = qkv.shape
    rows, columns = size
    picture, down, row, across, column, part, head, channel = range(8)
    axes = qkv.view(n, height // rows, rows, width // columns, columns, 3, heads, -1)
    moved = axes.permute(part, picture, down, across, head, row, column, channel).contiguous()
    return moved.view(3, -1, heads, rows * columns, moved.shape[-1])


def unwindowed(mixed: Tensor, size: tuple[int, int], windows: tuple[int, int]) -> Tensor:
    """Return (n, height, width, heads * channels) of `windows` (down, across) that are side by side.

    The way back from one of `windowed`'s three.
    """
    (rows, columns), (windows_down, windows_across) = size, windows
    picture, down, across, head, row, column, channel = range(7)
    axes = mixed.view(-1, windows_down, windows_across, mixed.shape[1], rows, columns, mixed.shape[-1])
    moved = axes.permute(picture, down, row, across, column, head, channel)
    return moved.reshape(len(axes), windows_down * rows, windows_across * columns, -1)


def _heads(attention: Any, q: Tensor, k: Tensor, v: Tensor, size: tuple[int, int]) -> Tensor:
    """Return softmax(q kᵀ·scale + positions) v for (windows, heads, tokens, channels)."""
    if not attention.use_rel_pos:
        return functional.scaled_dot_product_attention(q, k, v, scale=attention.scale)
    windows, heads, tokens, channels = q.shape
    rows, columns = size
    q, k, v = (t.view(windows * heads, 1, tokens, channels) for t in (q, k, v))
    vertical, horizontal = _positions(q, attention, size)
    most = _BYTES_ON_CPU if q.device.type == "cpu" else _BYTES_ON_GPU
    at_once = max(1, most // (q.element_size() * columns * tokens))
    rows_at_once, heads_at_once = min(rows, at_once), max(1, at_once // rows)
    positions = q.new_empty(min(heads_at_once, len(q)), rows_at_once, columns, rows, columns)
    mixed = torch.empty_like(q)
    for some in _slices(len(q), heads_at_once):
        for row in _slices(rows, rows_at_once):
            here = positions[: some.stop - some.start, : row.stop - row.start]
            torch.add(vertical[some, row, :, :, None], horizontal[some, row, :, None, :], out=here)
            asking = slice(row.start * columns, row.stop * columns)
            mixed[some, :, asking] = functional.scaled_dot_product_attention(
                q[some, :, asking],
                k[some],
                v[some],
                attn_mask=here.view(len(here), 1, -1, tokens),
                scale=attention.scale,
            )
    return mixed.view(windows, heads, tokens, channels)


def _positions(q: Tensor, attention: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return what the places of query and key add to each score: one part by rows apart, one by columns.

    The two, (heads, rows, columns, rows) and (heads, rows, columns, columns), are q·R_h[rows apart] and
    q·R_w[columns apart]: the "decomposed relative positions" of MViTv2, as `add_decomposed_rel_pos` has them.
    """
    down = _distances(attention.rel_pos_h, size[0])
    across = _distances(attention.rel_pos_w, size[1])
    placed = q.view(len(q), *size, -1)
    vertical = placed @ down.transpose(1, 2)
    horizontal = (placed.transpose(1, 2) @ across.transpose(1, 2)).transpose(1, 2)
    return vertical, horizontal


def _slices(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _distances(table: Tensor, size: int) -> Tensor:
    """Return the table's row for every two places of an axis, (size, size, channels), as `get_rel_pos`."""
    wanted = 2 * size - 1
    if len(table) != wanted:
        table = functional.interpolate(table.T[None], size=wanted, mode="linear")[0].T
    places = torch.arange(size, device=table.device)
    return table[places[:, None] - places[None, :] + size - 1]
