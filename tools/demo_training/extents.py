"""What SAM's encoder is taught beside its prompts: at every place, how far the thing there reaches.

Prompts ask for a few dozen things a step. This asks everywhere at once, as a detector's training does, and
it teaches what a lone point needs: to know of a place which thing it belongs to, and where that ends.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

LAYERS = 2
"""Plants, containers."""
PLACE = 8
"""Side of what one place of the embedding sees, pixels."""


class Extents(nn.Module):
    """From embeddings (n, channels, h, w) to whether a thing is there and how far it reaches.

    Args:
        channels: of the embeddings.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, LAYERS * 5, kernel_size=1)

    def loss(self, embeddings: Tensor, present: Tensor, reach: Tensor) -> Tensor:
        """Cross entropy of what is there, and smooth L1 of how far it reaches where something is.

        Args:
            embeddings: (n, channels, h, w).
            present: float (n, 2, h, w): 1 where a plant is, where a container is.
            reach: float (n, 2, 4, h, w): to the left, top, right and bottom, as `reaches` has them.
        """
        answer = self.head(embeddings.float()).unflatten(1, (LAYERS, 5))
        there = functional.binary_cross_entropy_with_logits(answer[:, :, 0], present)
        off = functional.smooth_l1_loss(answer[:, :, 1:], reach, reduction="none", beta=0.2).mean(2)
        return there + (off * present).sum() / present.sum().clamp(min=1)


def reaches(maps: NDArray[np.uint16]) -> tuple[Tensor, Tensor]:
    """Return what `Extents` should answer about one picture or part of one.

    Args:
        maps: its plants and containers, (2, side, side), 0 where there is none.

    Returns:
        (2, h, w): 1 where the middle of a place is in a thing; (2, 4, h, w): logarithms of one plus the
        quarter pixels from there to the sides of the thing's box.
    """
    side = maps.shape[-1]
    ys, xs = np.indices((side, side))
    middles = np.arange(PLACE // 2, side, PLACE)
    present, reach = [], []
    for one in maps:
        count = int(one.max()) + 1
        low, high = np.full((2, count), side), np.zeros((2, count), dtype=np.int64)
        for axis, at in enumerate((xs, ys)):
            np.minimum.at(low[axis], one.ravel(), at.ravel())
            np.maximum.at(high[axis], one.ravel(), at.ravel())
        here = one[np.ix_(middles, middles)]
        x, y = middles[None, :], middles[:, None]
        sides = np.stack([x - low[0][here], y - low[1][here], high[0][here] - x, high[1][here] - y])
        present.append(here > 0)
        reach.append(np.log1p(sides.clip(0) / 4))
    return torch.from_numpy(np.stack(present)).float(), torch.from_numpy(np.stack(reach)).float()
