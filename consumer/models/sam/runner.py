"""Runs segment-anything: the encoder in batches of pictures, the decoder in batches of prompts.

Stock's `SamPredictor` remembers the picture it was shown last. Here an embedding belongs to who asked for it,
so prompts about the pictures of many messages share a batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from consumer.models.finite import no_numbers
from consumer.models.masks import no_mask
from consumer.models.pixels import Shown, normalised
from consumer.models.precision import as_precise_as
from consumer.models.runner import POINTS_AT_ONCE, MaskFound, Prompt, warm_up_sizes
from consumer.models.sam.blocks import Sketch, Sketched, sketch
from consumer.models.sam.decoder import Decoder, Look, Understood
from consumer.models.sam.encoder import encode
from consumer.models.sam.pictures import shown
from consumer.models.sam.stretch import sam_stretch
from pipeline_steps.artifacts import Mask
from pipeline_steps.errors import ModelUnavailable
from pipeline_steps.models import MaskQuality, ModelSpec, SketchedMasks
from pipeline_steps.pictures import Picture

_PROMPTS_ON_CPU = 8
_PROMPTS_ON_GPU = 64
_DECODED_AT_ONCE_ON_CPU = 4
"""On a CPU the decoder is fastest while what it works on fits into the cache."""
_GRIDS_ON_GPU = _PROMPTS_ON_GPU // POINTS_AT_ONCE
"""Chunks of grids that share a batch there; a CPU takes one, so that others have their turn sooner."""

_PROMPTS_KEPT = 512
"""Chunks of prompts, 8 KB each in segment-anything's own sizes: two grids of 32 x 32 points."""

Prompts = Sequence[Prompt]


@dataclass(frozen=True, eq=False, slots=True)
class SamEmbedding:
    """A picture as the encoder has seen it."""

    maker: object
    """The runner that made it: only that model, on that device, can read it."""
    look: Look
    """What the decoder sees in what the encoder saw, whatever it is asked; on their device."""
    given: tuple[int, int]
    """Height and width of the pixels that were given."""
    shown: tuple[int, int]
    """Height and width they had in the square that the encoder saw."""

    @property
    def nbytes(self) -> int:
        """Bytes it takes on the device."""
        look = self.look
        return sum(part.nbytes for part in (look.places, look.placed, look.keys, look.values))


class SamRunner:
    """A `segment_anything` model: pictures become embeddings, prompts about them become masks.

    Args:
        model: a `segment_anything.modeling.Sam`, on its device. It is left as it is.
        spec: what the manifest says of it.
        device: where it is.
        max_batch: most pictures in one pass of the encoder.

    Raises:
        ModelUnavailable: the manifest's input size is not the network's.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec, device: torch.device, max_batch: int) -> None:
        self._model = cast(Any, model)
        self._name = spec.name
        self._device = device
        self._max_batch = max_batch
        on_cpu = device.type == "cpu"
        self._prompts = _PROMPTS_ON_CPU if on_cpu else _PROMPTS_ON_GPU
        self._decoded_at_once = _DECODED_AT_ONCE_ON_CPU if on_cpu else _PROMPTS_ON_GPU
        self._grids = 1 if on_cpu else _GRIDS_ON_GPU
        self._side: int = self._model.image_encoder.img_size
        if spec.input_size != self._side:
            raise ModelUnavailable(
                f"model {spec.name!r}: input_size is {spec.input_size}, but the network sees {self._side}"
            )
        encoder = self._model.image_encoder
        self._encode = as_precise_as(encoder, partial(encode, encoder))
        with torch.inference_mode():
            prompts = self._model.prompt_encoder
            self._decoder = Decoder(
                self._model.mask_decoder, prompts.get_dense_pe(), prompts.no_mask_embed.weight
            )
        # Photos of one camera are all of one size, and so are their grids.
        self._stretch = lru_cache(maxsize=8)(sam_stretch)
        encoded = partial(_encoded, self._model.prompt_encoder, self._device)
        self._encoded = lru_cache(maxsize=_PROMPTS_KEPT)(encoded)

    def costly(self, item: Picture | Prompt) -> bool:
        """Only pictures, which are resized."""
        return not isinstance(item, Prompt)

    def prepare(self, item: Picture | Prompt) -> Shown | Prompt:
        """Resize the picture so that its longer side is what the model sees."""
        return item if isinstance(item, Prompt) else shown(item, self._side)

    def digest(self, ready: Shown | Prompt) -> bytes | None:
        """Of the pixels that the encoder sees, and of the size that answers are given in."""
        if isinstance(ready, Prompt):
            return None
        pixels = ready.image.permute(1, 2, 0).contiguous()
        seen = sha256(f"{ready.height} {ready.width} {tuple(pixels.shape)}".encode())
        seen.update(pixels.numpy().data)
        return seen.digest()

    def bucket(self, ready: Shown | Prompt) -> Hashable:
        """All pictures are padded to one square; boxes, points, and chunks of grids are a batch each."""
        if not isinstance(ready, Prompt):
            return "pictures"
        if ready.quality is not None:
            return "grids"
        return "boxes" if len(ready.at) == 4 else "points"

    def max_batch(self, bucket: Hashable) -> int:
        """As the manifest says for pictures; for prompts what suits the device."""
        return {"pictures": self._max_batch, "grids": self._grids}.get(str(bucket), self._prompts)

    def fill(self, batch: Sequence[Shown | Prompt]) -> float:
        """The pictures' share of the square they are padded to; prompts are not padded."""
        seen = [item.image.shape[1:] for item in batch if isinstance(item, Shown)]
        return float(sum(h * w for h, w in seen)) / (len(seen) * self._side**2) if seen else 1.0

    def run(self, batch: Sequence[Shown | Prompt]) -> Sequence[SamEmbedding | MaskFound | SketchedMasks]:
        """Return an embedding for each picture, the best mask for each prompt, all good ones for points.

        Prompts of one batch may be about different pictures; those about one share what they can.
        """
        pictures = [item for item in batch if isinstance(item, Shown)]
        if pictures:
            return self._embed(pictures)
        prompts = [item for item in batch if isinstance(item, Prompt)]
        answer = self._best_masks if prompts[0].quality is None else self._every_mask
        answers: dict[int, MaskFound | SketchedMasks] = {}
        for mine in _alike(prompts):
            answers |= zip(mine, answer([prompts[i] for i in mine]), strict=True)
        return [answers[i] for i in range(len(prompts))]

    def warm_up(self) -> None:
        """Embed grey squares, and prompt them with boxes, points and a grid."""
        on = self._device.type
        grey = np.full((self._side, self._side, 3), 128, np.uint8)
        square = shown(grey, self._side)
        embeddings = [self._embed([square] * size) for size in warm_up_sizes(self._max_batch, on)]
        middle, edge = self._side / 4, self._side * 3 / 4
        for size in warm_up_sizes(self._prompts, on):
            for at in ([middle, middle, edge, edge], [middle, middle]):
                self._best_masks([Prompt(embeddings[0][0], np.array(at, np.float32))] * size)
        grid = Prompt(embeddings[0][0], np.array([[middle, edge]] * POINTS_AT_ONCE), MaskQuality(0, 0))
        for size in warm_up_sizes(self._grids, on):
            self._every_mask([grid] * size)

    def _embed(self, pictures: Sequence[Shown]) -> list[SamEmbedding]:
        images = [picture.image for picture in pictures]
        features = self._encode(
            normalised(images, self._side, self._side, self._model.pixel_mean, self._model.pixel_std)
        )
        if not torch.isfinite(features).all():
            raise no_numbers(self._name)
        return [
            SamEmbedding(
                self, self._decoder.look(row[None]), (height, width), (image.shape[1], image.shape[2])
            )
            for row, (image, height, width, _) in zip(features, pictures, strict=True)
        ]

    def _best_masks(self, prompts: Prompts) -> list[MaskFound]:
        """Return the best of each prompt's three masks (a fourth is for callers who want no choice)."""
        embedding = _embedding_of(prompts[0])
        found: list[tuple[Sketch, float]] = []
        at = np.stack([prompt.at for prompt in prompts]).astype(np.float32)
        for _, understood in self._understood(embedding, at):
            scores, best = understood.scores.max(1)
            logits = self._decoder.paint(understood, torch.arange(len(best), device=self._device), best)
            found += zip(self._sketched(embedding, logits).sketches, scores.tolist(), strict=True)
        return [
            MaskFound(mask.drawn() if mask.area else _nothing(prompt, embedding), score)
            for (mask, score), prompt in zip(found, prompts, strict=True)
        ]

    def _every_mask(self, prompts: Prompts) -> list[SketchedMasks]:
        """Return, for each chunk of points, those of the three masks of each that are good enough.

        As `SamAutomaticMaskGenerator._process_batch`, in its order; but what is not good enough is left out
        before it is painted, and nothing is ever as large as the picture.
        """
        embedding, quality = _embedding_of(prompts[0]), cast(MaskQuality, prompts[0].quality)
        at = np.concatenate([prompt.at for prompt in prompts])
        parts, numbers = [SketchedMasks.none()], [np.zeros(0, np.intp)]
        for start, understood in self._understood(embedding, at):
            good = understood.scores > (quality.predicted_iou if quality.predicted_iou > 0 else -torch.inf)
            point, mask = good.nonzero(as_tuple=True)
            if not len(point):
                continue
            logits = self._decoder.paint(understood, point, mask)
            masks = self._sketched(embedding, logits, quality.stability_offset)
            scores = understood.scores[point, mask].cpu().numpy()
            number = start + point.cpu().numpy()
            stable = (masks.stability >= quality.stability) | (quality.stability <= 0)
            found = SketchedMasks(tuple(masks.sketches), scores, masks.stability, at[number])
            parts.append(found.take(stable))
            numbers.append(number[stable])
        every = SketchedMasks.joined(parts)
        ends = np.cumsum([len(prompt.at) for prompt in prompts])
        rows = np.searchsorted(np.concatenate(numbers), [0, *ends])
        return [every.take(np.arange(first, end)) for first, end in pairwise(rows)]

    def _understood(
        self, embedding: SamEmbedding, at: npt.NDArray[np.floating[Any]]
    ) -> Iterator[tuple[int, Understood]]:
        """Yield the first prompt's number, and what the decoder made of as many as fit into the cache."""
        for start in range(0, len(at), self._decoded_at_once):
            prompts = self._prompted(embedding, at[start : start + self._decoded_at_once])
            yield start, self._decoder.understand(embedding.look, prompts)

    def _prompted(self, embedding: SamEmbedding, at: npt.NDArray[np.floating[Any]]) -> Tensor:
        """Return boxes (n, 4) or points (n, 2) as the prompt encoder does, (n, tokens, channels).

        Scaled in float64 as stock does it; then its predictor rounds to float32 at once, and its generator of
        masks after the division by the square's side. We round as what we are given is rounded.
        """
        scale = (embedding.shown[1] / embedding.given[1], embedding.shown[0] / embedding.given[0])
        corners = (at.reshape(len(at), -1, 2) * np.array(scale)).astype(at.dtype)
        return self._encoded(corners.tobytes(), corners.dtype.str, at.shape[1])

    def _sketched(self, embedding: SamEmbedding, logits: Tensor, offset: float = 0) -> Sketched:
        rows, columns = (
            self._stretch(cells, self._side, there, given, self._device)
            for cells, there, given in zip(logits.shape[1:], embedding.shown, embedding.given, strict=True)
        )
        return sketch(logits, rows, columns, self._model.mask_threshold, offset)


def _encoded(prompt_encoder: Any, device: torch.device, corners: bytes, dtype: str, columns: int) -> Tensor:
    """Return what stock's prompt encoder makes of boxes or points in the square that the model sees."""
    at = np.frombuffer(corners, dtype).reshape(-1, columns // 2, 2)
    coordinates = torch.as_tensor(at.copy(), device=device)
    if columns == 4:
        boxes, points = coordinates.reshape(-1, 4), None
    else:
        boxes = None
        points = (coordinates, torch.ones(len(at), 1, dtype=torch.int, device=device))
    sparse, _ = prompt_encoder(points=points, boxes=boxes, masks=None)
    return cast(Tensor, sparse)


def _alike(prompts: Prompts) -> list[list[int]]:
    """Return which prompts ask the same about the same picture, as lists of their numbers."""
    groups: dict[Hashable, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault((id(prompt.embedding), prompt.quality), []).append(i)
    return list(groups.values())


def _embedding_of(prompt: Prompt) -> SamEmbedding:
    embedding = prompt.embedding
    if not isinstance(embedding, SamEmbedding):
        raise TypeError(f"expected an embedding of a sam model, got {type(embedding).__name__}")
    return embedding


def _nothing(prompt: Prompt, embedding: SamEmbedding) -> Mask:
    x, y = prompt.at.reshape(-1, 2).mean(0)
    return no_mask(x, y, *embedding.given)
