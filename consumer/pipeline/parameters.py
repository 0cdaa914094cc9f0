"""From a step's kwargs and the message's settings to its parameters, or to every reason why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue, ValidationError

from consumer.pipeline.problems import ROOT, Problem, nearest, problems_of
from pipeline_steps.registry import Scope, Step, StepParams, StepRegistry, settings_read_by

MAX_UNREAD = 20
"""Keys that nothing reads and that a result names."""
_IGNORED_SETTINGS = {
    "pipeline_name": "",  # names the pipeline in the callback's metadata
    "output_dir": "pictures are drawn in memory, no folder is needed",
}


@dataclass(frozen=True, slots=True)
class ParameterReader:
    """Reads parameters. A kwarg counts before a setting, a setting before the step's own default."""

    settings: Mapping[str, JsonValue]
    """The message's, without those that are null: null means unset."""

    def read(
        self, step: Step, kwargs: Mapping[str, JsonValue], path: str, scope: Scope
    ) -> tuple[StepParams | None, list[Problem]]:
        """Return the parameters of the step at `path` and what is wrong with them.

        They are None where they could not even be read.
        """
        setting_of = {
            parameter: name
            for name, parameter in settings_read_by(step.params).items()
            if name in self.settings and parameter not in kwargs
        }

        def place(parameter: str) -> str:
            if parameter in setting_of:
                return f"settings.{setting_of[parameter]}"
            # What concerns several parameters at once stands at none of them.
            return f"{path}.kwargs" if parameter == ROOT else f"{path}.kwargs.{parameter}"

        values = {**kwargs, **{parameter: self.settings[name] for parameter, name in setting_of.items()}}
        try:
            params = step.params.model_validate(values)
        except ValidationError as error:
            problems = []
            for problem in problems_of(error, {"": step.params.model_fields}):
                parameter, dot, rest = problem.path.partition(".")
                problems.append(Problem(f"{place(parameter)}{dot}{rest}", problem.message))
            return None, problems
        return params, [Problem(place(name), message) for name, message in params.problems(scope)]

    def warnings(self, steps: StepRegistry) -> list[str]:
        """Return which settings nothing reads; of very many, only the first."""
        known = steps.known_settings()
        found = [
            f"settings.{name}: ignored: {why}"
            for name, why in _IGNORED_SETTINGS.items()
            if why and name in self.settings
        ]
        unread = [name for name in self.settings if name not in known and name not in _IGNORED_SETTINGS]
        found += [
            f"settings.{name[:80]}: no step reads it; {nearest(name[:80], known)}"
            for name in unread[:MAX_UNREAD]
        ]
        more = len(unread) - MAX_UNREAD
        return [*found, f"settings: {more} more that no step reads"] if more > 0 else found
