"""Reading a definition from JSON: its limits first, then its grammar."""

from __future__ import annotations

from pydantic import ValidationError

from consumer.pipeline.limits import limit_problems
from consumer.pipeline.problems import Problem, problems_of
from consumer.pipeline.second_look import look_again
from contracts.pipeline import PipelineDefinition


def read_definition(raw: object) -> tuple[PipelineDefinition | None, list[Problem]]:
    """Return the definition, or None and every problem of its shape.

    What is right is read in one pass. Only what is wrong is looked at again, to tell all that is.
    """
    refused: list[Problem] = []
    if not limit_problems(raw):
        try:
            return PipelineDefinition.model_validate(raw), []
        except ValidationError as error:
            refused = problems_of(error)
    return None, look_again(raw).problems or refused
