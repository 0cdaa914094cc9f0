"""What ought to be so of every overlay: plain functions over its documents, which yield what is wrong.

They are called for each overlay (`test_numbers.py`), and for overlays broken on purpose, to see that each
finds what it is there for, and that no other one does (`test_mutations.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pydantic import ValidationError

from tests.k8s.manifests import Manifests

Check = Callable[[Manifests], Iterable[str]]

OURS: dict[str, Check] = {}
"""Every check of ours, by its name, which is a sentence."""


def check(function: Check) -> Check:
    """Add a check to the catalogue."""
    OURS[function.__name__] = function
    return function


def problems(function: Check, manifests: Manifests) -> list[str]:
    """Return what a check finds wrong; what it looks for and cannot find is wrong too."""
    try:
        return list(function(manifests))
    except LookupError as absent:
        return [f"{type(absent).__name__}: {absent}"]
    except ValidationError:
        return []  # settings that cannot be used: `the_settings_can_be_used` says so
