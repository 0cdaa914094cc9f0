"""Keeping the C allocator from holding on to memory that one large message needed.

glibc gives every thread an arena of its own and keeps freed blocks of up to 32 MB in them. A worker has many
threads and now and then a message of 10 MB: its memory then grows by hundreds of megabytes that are free and
never returned. Two arenas, and blocks over 4 MB mapped by themselves, keep it flat.

A network on the CPU wants the opposite: each of its layers asks for such a block and frees it at once, and a
new mapping is filled with zeros page by page, which took a tenth of the shipped detector's time.
"""

from __future__ import annotations

import ctypes
import sys

# The numbers of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

ARENAS = 2
OWN_MAPPING = 4 << 20
OWN_MAPPING_OF_LAYERS = 32 << 20
"""The most that glibc takes."""
KEPT_AT_THE_TOP = 64 << 20


def bound_allocator() -> bool:
    """Set glibc's limits and tell whether that was possible; to be called before threads are started."""
    return _set(
        (_M_ARENA_MAX, ARENAS), (_M_MMAP_THRESHOLD, OWN_MAPPING), (_M_TRIM_THRESHOLD, KEPT_AT_THE_TOP)
    )


def keep_blocks_of_layers() -> bool:
    """Let freed blocks be used again that are as large as what a network's layers ask for."""
    return _set((_M_MMAP_THRESHOLD, OWN_MAPPING_OF_LAYERS), (_M_TRIM_THRESHOLD, KEPT_AT_THE_TOP))


def _set(*settings: tuple[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    return all(mallopt(name, value) == 1 for name, value in settings)
