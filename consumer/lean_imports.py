"""Importing a part of a large package without the rest of it, which the worker never uses.

A worker that starts is a worker that does not work yet, and a quarter of what it imports would come along
unasked: Google's clients with the messages of Pub/Sub, coloured tracebacks with the logs, and a command line
with the HTTP client.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

_EXTRAS = {"structlog": "rich", "httpx": "click"}
"""For coloured tracebacks, which are switched off; for its own command."""


def import_part(package: str, part: str) -> ModuleType:
    """Import `package.part` without running the package's own module first.

    Whoever imports the package later gets all of it, with the same part in it; only that, as an attribute of
    the package, it is not found by those who never import it by name (`from package import part`).

    Raises:
        ModuleNotFoundError: there is no such package, or no such part.
    """
    name = f"{package}.{part}"
    if package in sys.modules:
        return import_module(name)
    spec = find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"no package {package}", name=package)
    stand_in = ModuleType(package)
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules[package] = stand_in
    try:
        return import_module(name)
    finally:
        del sys.modules[package]


def import_without_extras() -> None:
    """Import what brings extras along as if those were not installed; whoever wants one gets it later."""
    for name, extra in _EXTRAS.items():
        if extra in sys.modules:
            continue
        sys.modules[extra] = None  # type: ignore[assignment]  # how Python marks what must not be found
        try:
            import_module(name)
        finally:
            del sys.modules[extra]
