"""How many threads torch may use: a container sees all cores of its node, but may use only its share."""

from __future__ import annotations

import math
import os
from pathlib import Path


def cpu_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many cores this process may keep busy, at least 1.

    Args:
        cgroup: where the kernel shows the limits of this container, version 2 or 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = _version_2(cgroup / "cpu.max") or _version_1(cgroup / "cpu")
    return max(1, min(cores, math.ceil(share))) if share else cores


def limit_threads(*, on_gpu: bool, cores: int | None = None) -> int:
    """Set how many threads torch computes with, and return it.

    With more threads than cores, each waits for those that got no core: 14 threads on 4 cores are eight times
    slower than 4. One core is left to the event loop; beside a GPU the CPU only feeds it.
    """
    import torch

    cores = cores or cpu_limit()
    threads = min(2, cores) if on_gpu else max(1, cores - 1)
    torch.set_num_threads(threads)
    return threads


def _version_2(file: Path) -> float | None:
    """`quota period`, or `max period`."""
    try:
        quota, period = file.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _version_1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
