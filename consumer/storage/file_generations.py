"""Generations of objects that are files: modification times, each later than all before it in the bucket."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pipeline_steps.errors import StoreMisconfigured


def last_generation(lock: int) -> int:
    """Return the latest generation that was ever written to the bucket, which its open lock file holds."""
    return int(os.pread(lock, 20, 0) or b"0")


def stamp(file: Path, *, later_than: int) -> int:
    """Give the file a modification time after `later_than`, and return what the file system kept of it.

    Some keep microseconds, or two seconds: then a later one is asked for.

    Raises:
        StoreMisconfigured: the file system keeps none that can be used.
    """
    wanted = max(time.time_ns(), later_than + 1)
    for more in (0, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000):
        os.utime(file, ns=(wanted + more, wanted + more))
        kept = file.stat().st_mtime_ns
        if kept > later_than:
            return kept
    raise StoreMisconfigured(f"the file system of {file.parent} keeps no usable modification times")
