"""segment-anything, exact and fast: the same weights, the same masks, a fraction of the time and the memory.

To follow one photo, read `pictures.py` (what the model is shown), `encoder.py`, `decoder.py` with
`attention.py`, then `stretch.py` and `blocks.py` (masks as large as the picture); `runner.py` puts them in
batches. Nothing is approximated: each file says why what it leaves out is not needed, and the tests hold all
of it against stock's.
"""

from consumer.models.sam.runner import SamEmbedding, SamRunner

__all__ = ["SamEmbedding", "SamRunner"]
