"""segment-anything's image encoder in a form that trains faster on a CPU."""

import torch
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor, nn
from torch.nn import functional


def prepare(encoder: nn.Module) -> None:
    """Lay the pyramid out channels last, and let layers that look over the whole picture attend faster."""
    encoder.patch_embed.to(memory_format=torch.channels_last)
    for block in encoder.blocks:
        if block.window_size == 0:
            block.attn.__class__ = FusedAttention


def embed(encoder: nn.Module, pictures: Tensor, top: int = 0, left: int = 0) -> Tensor:
    """Return what the encoder answers, the attending part of it in bfloat16.

    That halves its time on recent processors and costs no accuracy here. Convolutions are faster channels
    last and in float32.

    Args:
        encoder: segment-anything's, after `prepare`.
        pictures: (n, 3, height, width), normalised; smaller ones are parts of a square.
        top: Row of the embedding at which those stand.
        left: Column likewise.
    """
    patches = encoder.patch_embed(pictures.contiguous(memory_format=torch.channels_last))
    with torch.autocast("cpu", torch.bfloat16):
        height, width = patches.shape[1:3]
        x = patches + encoder.pos_embed[:, top : top + height, left : left + width]
        for block in encoder.blocks:
            x = block(x)
        embedded: Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return embedded


class FusedAttention(Attention):  # type: ignore[misc]  # segment-anything has no annotations
    """The encoder's attention with relative positions, by torch's fused kernel, forward and backward.

    What the positions add to the score of query i and key j is h_i[row of j] + w_i[column of j]: a scalar
    product of (h_i, w_i) and two unit vectors. So they become channels of queries and keys, and no matrix
    of all pairs is ever written out. The values get as many zeros, since the kernel wants them equally wide.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Attend over all of x (n, height, width, channels)."""
        n, height, width, _ = x.shape
        qkv = self.qkv(x).reshape(n, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        down = _of_distances(self.rel_pos_h, height).to(q.dtype)
        across = _of_distances(self.rel_pos_w, width).to(q.dtype)
        placed = q.reshape(n, self.num_heads, height, width, -1)
        by_row = torch.einsum("nhrcd,rkd->nhrck", placed, down).flatten(2, 3)
        by_column = torch.einsum("nhrcd,ckd->nhrck", placed, across).flatten(2, 3)
        rows = torch.eye(height, dtype=q.dtype).repeat_interleave(width, dim=0)
        columns = torch.eye(width, dtype=q.dtype).repeat(height, 1)
        places = torch.cat([rows, columns], dim=1).expand(n, self.num_heads, -1, -1)
        mixed = functional.scaled_dot_product_attention(
            torch.cat([q * self.scale, by_row, by_column], dim=-1),
            torch.cat([k, places], dim=-1),
            functional.pad(v, (0, height + width)),
            scale=1.0,
        )[..., : v.shape[-1]]
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(n, height, width, -1))
        return projected


def _of_distances(table: Tensor, size: int) -> Tensor:
    """Return (size, size, channels): of a table for a larger square, what stands for the distances here.

    segment-anything would stretch the table instead, as for the same picture with fewer places.
    """
    middle = len(table) // 2
    return get_rel_pos(size, size, table[middle - size + 1 : middle + size])
