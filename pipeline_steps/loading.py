"""Finding steps: those of this project, and those of installed plug-ins."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from pipeline_steps.registry import STEPS, StepRegistry


class PluginFailed(Exception):
    """An installed plug-in cannot be loaded; the message names it and says why."""


def load_steps(
    packages: Iterable[str] = ("vision", "image", "findings"), *, plugins: bool = True
) -> StepRegistry:
    """Import every step of ours and of installed plug-ins, and return the registry they are in.

    A plug-in names a module in the entry-point group `mlworker.steps`; importing it registers its steps.

    Raises:
        PluginFailed: a plug-in cannot be imported, or declares a step that cannot be used.
    """
    for package in packages:
        _import_all(importlib.import_module(f"pipeline_steps.{package}"))
    if plugins:
        for plugin in entry_points(group="mlworker.steps"):
            _load(plugin)
    STEPS.ignore(
        "send_results_backend", "delivery is the worker's own job: every result is published and called back"
    )
    return STEPS


def _load(plugin: EntryPoint) -> None:
    try:
        plugin.load()
    except (Exception, SystemExit) as error:
        package = f" of {plugin.dist.name} {plugin.dist.version}" if plugin.dist else ""
        raise PluginFailed(
            f"plug-in {plugin.name!r}{package} cannot be loaded: "
            f"importing {plugin.value} failed with {type(error).__name__}: {error}"
        ) from error


def _import_all(package: ModuleType) -> None:
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
