"""The checksum both stores speak of."""

from __future__ import annotations

import base64

import google_crc32c


def crc32c(data: bytes) -> str:
    """Return the CRC-32C as Cloud Storage writes it: big-endian, base64."""
    return written(google_crc32c.value(data))


def crc32c_of_more(value: int, data: bytes) -> int:
    """Return the CRC-32C of what `value` is of (nothing: 0), followed by `data`."""
    return int(google_crc32c.extend(value, data))


def written(value: int) -> str:
    """Return a CRC-32C as Cloud Storage writes it: big-endian, base64."""
    return base64.b64encode(value.to_bytes(4, "big")).decode()
