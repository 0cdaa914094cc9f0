"""Pub/Sub's messages, as Google's package describes them, without the clients it brings along.

`types.X.pb()` is the protobuf class of message X.
"""

from __future__ import annotations

from typing import Any, Final

from consumer.lean_imports import import_part

types: Final[Any] = import_part("google.pubsub_v1", "types")
