"""Numbers of messages are finite: JSON has no others, and `null` in their place cannot be read again."""

from __future__ import annotations

import math

import pytest
from pydantic import BaseModel, ValidationError

from contracts.callback import CallbackDetection
from contracts.geometry import Box
from contracts.result import Estimation


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("contract", "fields", "name"),
    [
        (Box, {"x1": 0, "y1": 0, "x2": 1}, "y2"),
        (Estimation, {"type": "COUNT"}, "value"),
        (CallbackDetection, {"label": "plant"}, "confidence"),
    ],
)
def test_a_number_that_is_none_is_refused_where_it_would_be_written(
    contract: type[BaseModel], fields: dict[str, object], name: str, number: float
) -> None:
    with pytest.raises(ValidationError) as refused:
        contract.model_validate({**fields, name: number})

    assert [problem["loc"] for problem in refused.value.errors()] == [(name,)]
