"""How small a JPEG may be decoded for models that shrink it anyway.

libjpeg gives a picture at eighths of its size for a part of the time, and memory: each block of 8 x 8 pixels
is made of its lowest frequencies alone. Those are not the pixels that shrinking would give: of generated
scenes, what is shown then differs by 0.1 to 2 grey levels in the mean, the more the nearer both sizes are.
"""

from __future__ import annotations

_EIGHTHS = (1, 2, 3, 4)
"""More of them take as long as the whole picture, or longer."""
_MARGIN = 1.4


def decoded_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Return the least height and width to decode a JPEG to; its own, if smaller is too small.

    Args:
        height: of the picture, in pixels.
        width: likewise.
        longest: of the sides that models are shown. A classifier stretches both to it, so that the shorter
            one may not be less.
    """
    for eighths in _EIGHTHS:
        sides = tuple(-(-side * eighths // 8) for side in (height, width))
        if max(sides) >= _MARGIN * longest and min(sides) >= longest:
            return sides[0], sides[1]
    return height, width
