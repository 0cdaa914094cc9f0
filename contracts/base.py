"""What every message has in common."""

from __future__ import annotations

from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, JsonValue
from pydantic.alias_generators import to_camel

JsonObject: TypeAlias = dict[str, JsonValue]
"""A JSON object that no contract has read yet, or that is about to be written."""


class Contract(BaseModel):
    """A message of ours: immutable, and strict about unknown fields.

    Numbers are finite: JSON knows no others, and what was written as `null` could not be read again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BackendContract(Contract):
    """A message of the backend's: camelCase on the wire, snake_case here."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
