"""Importing torchvision without torch's compiler, which nothing here uses.

torchvision imports `torch._dynamo` for one function, which it calls only where deterministic algorithms are
wanted on a GPU (`torchvision/ops/roi_align.py`). With it come sympy, triton and torch.distributed: 870
modules, nearly half of the time that torch and torchvision take to import. Here a stand-in takes its place,
and calls in the compiler when somebody wants something of it. If torchvision imports another thing from it
one day, that comes at once, and only the time is lost.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo.utils"


def import_lean(name: str) -> ModuleType:
    """Import a module that imports torchvision."""
    if _COMPILER in sys.modules:
        return import_module(name)
    sys.modules[_COMPILER] = _StandIn(_COMPILER)
    try:
        return import_module(name)
    finally:
        _remove_stand_in()


class _StandIn(ModuleType):
    """The compiler's module, until it is needed."""

    def is_compile_supported(self, device_type: str) -> Any:
        """As the module's own function; called long after the import."""
        return _compiler().is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks, and does not mean the compiler
            raise AttributeError(name)
        return getattr(_compiler(), name)


def _compiler() -> ModuleType:
    _remove_stand_in()
    return import_module(_COMPILER)


def _remove_stand_in() -> None:
    if isinstance(sys.modules.get(_COMPILER), _StandIn):
        del sys.modules[_COMPILER]
