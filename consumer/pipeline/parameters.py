"""From a step's kwargs and the message's settings to its parameters, or to every reason why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue, ValidationError

from consumer.pipeline.misread_parameters import SOME_NAME, read_again
from consumer.pipeline.problems import ROOT, Problem, nearest
from pipeline_steps.registry import Kinds, Scope, Step, StepParams, StepRegistry, settings_read_by

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
    noted: list[str] = field(default_factory=list)
    """What steps warned of while they were read."""

    def read(
        self, step: Step, kwargs: Mapping[str, JsonValue], path: str, scope: Scope
    ) -> tuple[tuple[StepParams, ...], list[Problem]]:
        """Return the parameters of the step at `path` and what is wrong with them.

        Parameters that are right have one version; see `read_again` for others.
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
            versions: tuple[StepParams, ...] = (step.params.model_validate(values),)
            self.noted.extend(f"{place(name)}: {said}" for name, said in versions[0].warnings())
            return versions, [Problem(place(name), said) for name, said in versions[0].problems(scope)]
        except ValidationError:
            versions, problems = read_again(step.params, values, scope)
            return versions, [_under(place, problem) for problem in problems]

    def warnings(self, steps: StepRegistry) -> list[str]:
        """Return what steps warned of, and which settings nothing reads; of very many, only the first."""
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
        if more > 0:
            found.append(f"settings: {more} more that no step reads")
        return [*self.noted, *found]


def common_needs(versions: tuple[StepParams, ...]) -> Kinds:
    """Return the inputs that parameters need, whichever version of them was meant."""
    needs = [params.needs() for params in versions]
    return frozenset.intersection(*needs) if needs else frozenset()


def possible_labels(versions: tuple[StepParams, ...], scope: Scope) -> frozenset[str] | None:
    """Return the labels of the segments a step may write, whichever version was meant; None when unknown."""
    found: frozenset[str] = frozenset()
    for params in versions:
        labels = params.segment_labels(scope)
        if labels is None or SOME_NAME in labels:
            return None
        found |= labels
    return found if versions else None


def _under(place: Callable[[str], str], problem: Problem) -> Problem:
    """Return the problem of a parameter at the parameter's place."""
    parameter, dot, rest = problem.path.partition(".")
    return Problem(f"{place(parameter)}{dot}{rest}", problem.message)
