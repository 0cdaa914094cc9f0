"""What the pool asks of whoever reads models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from consumer.models.device import Device
from consumer.models.manifest import ModelEntry
from consumer.models.runner import AnyRunner

Place = Callable[[Device], AnyRunner]
"""Moves a model that is in the host's memory to a device; called on that device's thread, once for each
device and one after the other."""


class Loader(Protocol):
    """Reads models. `torch_loader.py` has the real one, `simulated.py` one for tests."""

    async def load(self, model: ModelEntry, devices: int) -> Place:
        """Read the model's weights into the host's memory, off the event loop, for so many devices.

        Raises:
            ModelUnavailable: it cannot be read, or is not what the manifest says.
        """
        ...
