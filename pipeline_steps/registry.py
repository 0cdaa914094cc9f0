"""How a step is declared: one function and one decorator.

The function's signature is its declaration: artifacts in (`X | None` is optional), a params model, the
context; artifacts out. It is checked when the module is imported, and the function stays as it is, so a test
can call it with no engine.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType, NoneType, UnionType
from typing import Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field

from pipeline_steps.artifact import Artifact
from pipeline_steps.context import StepContext
from pipeline_steps.models import ModelCatalogue

Kinds = frozenset[type[Artifact]]


@dataclass(frozen=True, slots=True)
class Scope:
    """What is known where a step stands, when its parameters are checked."""

    models: ModelCatalogue | None
    """None when no manifest is at hand: then nothing is said of models."""
    inside_map: bool
    segment_labels: frozenset[str] | None
    """The labels that the segments seen here can have; None when unknown."""
    used: set[str] = field(default_factory=set)
    """Filled with the models that steps say they use (`checks.model_problems`)."""


class StepParams(BaseModel):
    """What a pipeline author may set on a step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def needs(self) -> Kinds:
        """Return the inputs that these values need beside those the signature requires."""
        return frozenset()

    def problems(self, scope: Scope) -> Iterator[tuple[str, str]]:
        """Yield (parameter, what is wrong and what was expected) for what only the scope can tell."""
        del scope
        yield from ()

    def warnings(self) -> Iterator[tuple[str, str]]:
        """Yield (parameter, what it does not do) for values that can run, but hardly as they were meant."""
        yield from ()

    def segment_labels(self, scope: Scope) -> frozenset[str] | None:
        """Return the labels of the segments this step writes; None when unknown."""
        return scope.segment_labels


def setting(name: str, default: Any, **field: Any) -> Any:
    """Declare a parameter that takes its value from the message's setting `name` when no kwarg gives one."""
    return Field(default=default, json_schema_extra={"setting": name}, **field)


def settings_read_by(params: type[StepParams]) -> Mapping[str, str]:
    """Return which setting each parameter reads: setting name to parameter name."""
    found: dict[str, str] = {}
    for name, info in params.model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and isinstance(extra.get("setting"), str):
            other = found.setdefault(str(extra["setting"]), name)
            if other != name:
                raise InvalidStep(f"{params.__name__}: {other} and {name} read the same setting")
    return found


OnlyShows: TypeAlias = Callable[[Any, Kinds], bool]


@dataclass(frozen=True, slots=True)
class Step:
    """A registered step: the function, and what its signature promises."""

    name: str
    run: Callable[..., Any]
    params: type[StepParams]
    reads: Mapping[str, type[Artifact]]
    """Argument name to artifact."""
    optional: frozenset[str]
    writes: tuple[type[Artifact], ...]
    params_argument: str | None
    context_argument: str | None
    in_windows: bool = False
    """Whether of the picture it needs no more than its size, or parts of it one after the other."""
    only_shows: OnlyShows | None = None
    """Whether all it does with the picture is to show it to models, as a whole."""

    @property
    def requires(self) -> Kinds:
        """The artifacts it cannot do without."""
        return frozenset(kind for argument, kind in self.reads.items() if argument not in self.optional)

    @property
    def refines(self) -> Kinds:
        """The artifacts it both reads and writes: their things keep their ids, so nothing goes stale."""
        return frozenset(self.writes) & frozenset(self.reads.values())

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]


class InvalidStep(TypeError):
    """A step function whose signature the registry cannot read."""


@dataclass
class StepRegistry:
    """The steps a pipeline may name."""

    _steps: dict[str, Step] = field(default_factory=dict)
    _ignored: dict[str, str] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self._steps

    def __getitem__(self, name: str) -> Step:
        return self._steps[name]

    def __iter__(self) -> Iterator[Step]:
        return iter(self._steps[name] for name in self.names())

    def names(self) -> list[str]:
        """Return the steps' names, sorted."""
        return sorted(self._steps)

    def add(self, step: Step) -> None:
        """Register a step.

        Raises:
            InvalidStep: another step has that name.
        """
        known = self._steps.get(step.name)
        if known is not None and known.run is not step.run:
            raise InvalidStep(
                f"two steps are named {step.name!r}: {_where(known.run)} and {_where(step.run)}"
            )
        self._steps[step.name] = step

    def ignore(self, name: str, reason: str) -> None:
        """Let pipelines name a step that no longer does anything; they get `reason` as a warning."""
        self._ignored[name] = reason

    @property
    def ignored(self) -> Mapping[str, str]:
        """Names that are accepted and do nothing, with the reason."""
        return MappingProxyType(self._ignored)

    def known_settings(self) -> frozenset[str]:
        """Return every setting that some step reads."""
        return frozenset(name for step in self for name in settings_read_by(step.params))


STEPS = StepRegistry()
"""Where `@step` registers when no other registry is given."""

F = TypeVar("F", bound=Callable[..., Any])


def only_size(params: StepParams, written: Kinds) -> bool:
    """Say of a step that of the picture it needs no more than its size."""
    del params, written
    return True


def step(
    name: str,
    *,
    registry: StepRegistry = STEPS,
    in_windows: bool = False,
    only_shows: OnlyShows | None = None,
) -> Callable[[F], F]:
    """Register a function as the step `name`; the function itself is unchanged.

    `in_windows` says that it never looks at all of `Image.pixels`, only at those of crops: then a very large
    picture need not be decoded whole for it. `only_shows` says, of its parameters and of what the pipeline's
    steps write, whether it only gives `Image.shown` to models that it names, or asks for the size.
    """

    def register(function: F) -> F:
        windows = in_windows or only_shows is only_size
        registry.add(replace(_read_signature(name, function), in_windows=windows, only_shows=only_shows))
        return function

    return register


def _read_signature(name: str, function: Callable[..., Any]) -> Step:
    hints = get_type_hints(function)
    returned = hints.pop("return", NoneType)
    reads: dict[str, type[Artifact]] = {}
    optional: set[str] = set()
    params: type[StepParams] = StepParams
    params_argument = context_argument = None

    for argument, parameter in inspect.signature(function).parameters.items():
        kind, is_optional = _strip_none(hints.get(argument))
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InvalidStep(f"step {name!r}: argument {argument!r} cannot be passed by its name")
        if not isinstance(kind, type):
            raise InvalidStep(f"step {name!r}: argument {argument!r} needs a plain type, got {kind!r}")
        if issubclass(kind, StepParams) and params_argument is None:
            params, params_argument = kind, argument
        elif issubclass(kind, StepContext) and context_argument is None:
            context_argument = argument
        elif issubclass(kind, StepParams | StepContext):
            raise InvalidStep(f"step {name!r}: argument {argument!r} is a second {kind.__name__}")
        elif issubclass(kind, Artifact):
            reads[argument] = kind
            if is_optional:
                optional.add(argument)
        else:
            raise InvalidStep(
                f"step {name!r}: argument {argument!r} is a {kind.__name__}, "
                "not an artifact, params or context"
            )

    settings_read_by(params)
    writes = _artifacts_of(name, returned)
    return Step(
        name,
        function,
        params,
        MappingProxyType(reads),
        frozenset(optional),
        writes,
        params_argument,
        context_argument,
    )


def _artifacts_of(name: str, returned: Any) -> tuple[type[Artifact], ...]:
    kinds = (
        () if returned is NoneType else get_args(returned) if get_origin(returned) is tuple else (returned,)
    )
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Artifact)):
            raise InvalidStep(f"step {name!r} returns {kind!r}: expected artifacts, a tuple of them, or None")
    if len(set(kinds)) < len(kinds):
        raise InvalidStep(f"step {name!r} returns the same artifact twice")
    return tuple(kinds)


def _strip_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        if len(kinds) == 1:
            return kinds[0], True
    return hint, False


def _where(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
