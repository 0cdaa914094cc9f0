"""Runs segment-anything: the encoder in batches of pictures, the decoder in batches of prompts.

Stock's `SamPredictor` remembers the picture it was shown last. Here an embedding belongs to who asked for it,
so prompts about the pictures of many messages share a batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from consumer.models.masks import Stretch, no_mask, sam_stretch, stretched_mask
from consumer.models.pixels import Shown, normalised, shrunk_or_enlarged
from consumer.models.runner import MaskFound, Prompt, batch_sizes
from pipeline_steps.artifacts import Pixels
from pipeline_steps.errors import ModelUnavailable
from pipeline_steps.models import ModelSpec

_PROMPTS_ON_CPU = 8
_PROMPTS_ON_GPU = 64
"""On a CPU the decoder is fastest while a batch fits into its cache."""


@dataclass(frozen=True, eq=False, slots=True)
class SamEmbedding:
    """A picture as the encoder has seen it."""

    maker: object
    """The runner that made it: only that model, on that device, can read it."""
    features: Tensor
    """(channels, height, width) of the encoder, on its device."""
    given: tuple[int, int]
    """Height and width of the pixels that were given."""
    shown: tuple[int, int]
    """Height and width they had in the square that the encoder saw."""


class SamRunner:
    """A `segment_anything` model: pictures become embeddings, prompts about them become masks.

    Args:
        model: a `segment_anything.modeling.Sam`, on its device.
        spec: what the manifest says of it.
        device: where it is.
        max_batch: most pictures in one pass of the encoder.

    Raises:
        ModelUnavailable: the manifest's input size is not the network's.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec, device: torch.device, max_batch: int) -> None:
        self._model = cast(Any, model)
        self._device = device
        self._max_batch = max_batch
        self._prompts = _PROMPTS_ON_CPU if device.type == "cpu" else _PROMPTS_ON_GPU
        self._side: int = self._model.image_encoder.img_size
        if spec.input_size != self._side:
            raise ModelUnavailable(
                f"model {spec.name!r}: input_size is {spec.input_size}, but the network sees {self._side}"
            )
        self._stretch = lru_cache(maxsize=8)(sam_stretch)  # photos of one camera are all of one size
        with torch.inference_mode():
            self._positions: Tensor = self._model.prompt_encoder.get_dense_pe()

    def costly(self, item: Pixels | Prompt) -> bool:
        """Only pictures, which are resized."""
        return not isinstance(item, Prompt)

    def prepare(self, item: Pixels | Prompt) -> Shown | Prompt:
        """Resize the picture so that its longer side is what the model sees."""
        return item if isinstance(item, Prompt) else shrunk_or_enlarged(item, self._side)

    def bucket(self, ready: Shown | Prompt) -> Hashable:
        """All pictures are padded to one square; boxes and points are two batches."""
        if isinstance(ready, Prompt):
            return "boxes" if len(ready.at) == 4 else "points"
        return "pictures"

    def max_batch(self, bucket: Hashable) -> int:
        """As the manifest says for pictures; for prompts what suits the device."""
        return self._max_batch if bucket == "pictures" else self._prompts

    def run(self, batch: Sequence[Shown | Prompt]) -> list[SamEmbedding] | list[MaskFound]:
        """Return an embedding for each picture, or the best mask for each prompt."""
        pictures = [item for item in batch if isinstance(item, Shown)]
        prompts = [item for item in batch if isinstance(item, Prompt)]
        return self._embed(pictures) if pictures else self._masks(prompts)

    def warm_up(self) -> None:
        """Embed grey squares, and prompt them with boxes and points."""
        grey = np.full((self._side, self._side, 3), 128, np.uint8)
        shown = shrunk_or_enlarged(grey, self._side)
        embeddings = [self._embed([shown] * size) for size in batch_sizes(self._max_batch)]
        middle, edge = self._side / 4, self._side * 3 / 4
        for size in batch_sizes(self._prompts):
            for at in ([middle, middle, edge, edge], [middle, middle]):
                self._masks([Prompt(embeddings[0][0], np.array(at, np.float32))] * size)

    def _embed(self, pictures: Sequence[Shown]) -> list[SamEmbedding]:
        images = [shown.image for shown in pictures]
        features = self._model.image_encoder(
            normalised(images, self._side, self._side, self._model.pixel_mean, self._model.pixel_std)
        )
        # Cloned: a view would keep the whole batch in memory as long as one of its pictures is asked about.
        return [
            SamEmbedding(self, row.clone(), (height, width), (image.shape[1], image.shape[2]))
            for row, (image, height, width) in zip(features, pictures, strict=True)
        ]

    def _masks(self, prompts: Sequence[Prompt]) -> list[MaskFound]:
        embeddings = [_embedding_of(prompt) for prompt in prompts]
        logits, scores = self._decode(embeddings, self._encode(prompts, embeddings))
        found = []
        for answer, score, embedding, prompt in zip(
            logits, scores.cpu().tolist(), embeddings, prompts, strict=True
        ):
            mask = stretched_mask(answer, *self._stretches(embedding, answer), self._model.mask_threshold)
            if mask is None:
                x, y = prompt.at.reshape(-1, 2).mean(0)
                mask = no_mask(x, y, *embedding.given)
            found.append(MaskFound(mask, score))
        return found

    def _encode(self, prompts: Sequence[Prompt], embeddings: Sequence[SamEmbedding]) -> tuple[Tensor, Tensor]:
        """Return the prompts' sparse (n, tokens, channels) and dense (n, channels, h, w) embeddings."""
        # In float64, as stock does it, then once to float32.
        scale = np.array([(e.shown[1] / e.given[1], e.shown[0] / e.given[0]) for e in embeddings])
        corners = np.stack([prompt.at.reshape(-1, 2) for prompt in prompts]) * scale[:, None]
        coordinates = torch.as_tensor(corners, dtype=torch.float32, device=self._device)
        if corners.shape[1] == 2:
            boxes, points = coordinates.reshape(-1, 4), None
        else:
            inside = torch.ones(len(prompts), 1, dtype=torch.int, device=self._device)
            boxes, points = None, (coordinates, inside)
        sparse, dense = self._model.prompt_encoder(points=points, boxes=boxes, masks=None)
        return sparse, dense

    def _decode(
        self, embeddings: Sequence[SamEmbedding], prompts: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return each prompt's best mask (n, cells, cells) as logits, and its estimated IoU (n,).

        `MaskDecoder.predict_masks`, except that each prompt may be about a picture of its own, and that of
        the three masks (a fourth is for callers who want no choice) only the best is made.
        """
        sparse, dense = prompts
        decoder = self._model.mask_decoder
        count = len(embeddings)
        start = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        tokens = torch.cat([start.expand(count, -1, -1), sparse], dim=1)
        first = embeddings[0]
        if all(embedding is first for embedding in embeddings):
            features = first.features.expand(count, -1, -1, -1)
        else:
            features = torch.stack([embedding.features for embedding in embeddings])
        answers, mixed = decoder.transformer(
            features + dense, self._positions.expand(count, -1, -1, -1), tokens
        )
        scores, best = decoder.iou_prediction_head(answers[:, 0])[:, 1:].max(1)
        upscaled = decoder.output_upscaling(mixed.transpose(1, 2).reshape(features.shape))
        candidates = torch.stack(
            [
                decoder.output_hypernetworks_mlps[token](answers[:, 1 + token])
                for token in range(1, decoder.num_mask_tokens)
            ],
            dim=1,
        )
        chosen = candidates[torch.arange(count, device=best.device), best]
        return torch.einsum("nc,nchw->nhw", chosen, upscaled), scores

    def _stretches(self, embedding: SamEmbedding, logits: Tensor) -> tuple[Stretch, Stretch]:
        rows, columns = (
            self._stretch(cells, self._side, shown, given, self._device)
            for cells, shown, given in zip(logits.shape, embedding.shown, embedding.given, strict=True)
        )
        return rows, columns


def _embedding_of(prompt: Prompt) -> SamEmbedding:
    embedding = prompt.embedding
    if not isinstance(embedding, SamEmbedding):
        raise TypeError(f"expected an embedding of a sam model, got {type(embedding).__name__}")
    return embedding
