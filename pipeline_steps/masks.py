"""Masks as COCO's run-length encoding, made from each mask's own box without filling the whole picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline_steps.artifacts import Mask


def run_lengths(mask: Mask, width: int, height: int) -> str:
    """Return the mask in a picture of `width` x `height` pixels as a compressed COCO string.

    COCO counts runs of equal pixels down the columns, left to right, the first run being background.
    """
    return _compress(_counts(mask, width, height))


def _counts(mask: Mask, width: int, height: int) -> npt.NDArray[np.int64]:
    rows, columns = mask.bits.shape
    # Down each column of the box, where the pixel differs from the one above; outside is background.
    padded = np.zeros((rows + 2, columns), np.int8)
    padded[1:-1] = mask.bits
    column, row = np.nonzero(np.diff(padded, axis=0).T)
    changes = (column + mask.x).astype(np.int64) * height + row + mask.y
    # A run that ends at the bottom of the picture and goes on at the top of the next column is one run.
    meeting = np.flatnonzero(changes[1:] == changes[:-1])
    changes = np.delete(changes, np.concatenate([meeting, meeting + 1]))
    edges = np.concatenate([[0], changes, [width * height]])
    counts = np.diff(edges)
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


def _compress(counts: npt.NDArray[np.int64]) -> str:
    """Write each count as COCO does: five bits a character, from the third on as a difference.

    The difference is to the count before the last one, which is of the same colour.
    """
    values = counts.copy()
    values[3:] -= counts[1:-2]
    characters = bytearray()
    for value in values.tolist():
        more = True
        while more:
            five = value & 0x1F
            value >>= 5
            more = value != -1 if five & 0x10 else value != 0
            characters.append((five | (0x20 if more else 0)) + 48)
    return characters.decode("ascii")
