"""Names that pipeline authors write: a list of them, and the nearest known one to a typo."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, StringConstraints


def one_or_many(value: Any) -> Any:
    """Take a bare string for a list of one name, never for a list of letters."""
    return (value,) if isinstance(value, str) else value


Name: TypeAlias = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255)]
Names: TypeAlias = Annotated[tuple[Name, ...], BeforeValidator(one_or_many)]
"""A list of names; one name may stand without the list."""


def expected_one_of(name: str, known: Iterable[str]) -> str:
    """Return what to say of a `name` that is not `known`: the nearest known one, and all of them."""
    choices = sorted(known)
    nearest = get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}Expected one of: {', '.join(choices) or '(there are none)'}"
