"""How much memory this process may use: a container sees its node's, but is killed beyond its share."""

from __future__ import annotations

import os
from pathlib import Path

_UNLIMITED = 1 << 60
"""What version 1 says where there is no limit is a number nearly as large as it has bits for."""


def memory_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many bytes this process may use.

    Args:
        cgroup: where the kernel shows the limits of this container, version 2 or 1.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (_limit(cgroup / "memory.max"), _limit(cgroup / "memory" / "memory.limit_in_bytes"))
    return min((limit for limit in limits if limit), default=machine)


def photo_memory(limit: int | None = None) -> int:
    """Return how much of it decoded photos may take: a quarter, beside models, tiles, masks and torch."""
    return (limit or memory_limit()) // 4


def _limit(file: Path) -> int | None:
    try:
        limit = int(file.read_text())
    except (OSError, ValueError):  # no such file, or `max`
        return None
    return limit if 0 < limit < _UNLIMITED else None
