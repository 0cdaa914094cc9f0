"""The worker's SAM decoder for training: several pictures at once, and every mask painted."""

import torch
from torch import Tensor, nn

from consumer.models.sam.decoder import Decoder, Understood


class TrainingDecoder(Decoder):
    """`Decoder` over a network's present weights: faster than stock's, and what the worker will run."""

    @classmethod
    def of(
        cls, network: nn.Module, top: int = 0, left: int = 0, side: int | None = None
    ) -> "TrainingDecoder":
        """Return it for the part of the embedding from `top`, `left`, `side` places long (else all of it)."""
        prompts = network.prompt_encoder
        with torch.autocast("cpu", enabled=False):  # positions need their last bits
            positions = prompts.get_dense_pe()
        if side is not None:
            positions = positions[:, :, top : top + side, left : left + side]
        return cls(network.mask_decoder, positions, prompts.no_mask_embed.weight, single=True)

    def answer(self, embeddings: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Return all four masks of each prompt, (n, 4, cells, cells) logits, and (n, 4) estimated IoU.

        Args:
            embeddings: (pictures, channels, height, width).
            prompts: (n, tokens, channels), as many about each picture, in its order.
        """
        understood = self.understand(self.look(embeddings), prompts)
        return self.paint_all(understood), understood.scores

    def paint_all(self, understood: Understood) -> Tensor:
        """Return the logits of every mask, (n, 4, cells, cells).

        The worker paints prompt by prompt to stay in the cache; for gradients one go is faster.
        """
        prompts, kinds, _ = understood.tokens.shape
        networks = self._stock.output_hypernetworks_mlps
        brushes = torch.stack([networks[i](understood.tokens[:, i]) for i in range(kinds)], dim=1)
        first, second = self._enlarge
        cells = second(first(understood.places.flatten(0, 1))).unflatten(0, (prompts, -1))
        height, width = self._size
        # A place became 2 x 2 places of 2 x 2 cells; only now are they laid out.
        painted = (brushes @ cells.mT).view(prompts, kinds, height, width, 2, 2, 2, 2)
        laid_out = painted.permute(0, 1, 2, 4, 6, 3, 5, 7)
        return laid_out.reshape(prompts, kinds, 4 * height, 4 * width)
